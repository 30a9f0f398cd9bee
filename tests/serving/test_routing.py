"""Claims of lessonlib.serving.routing. References: sums by hand, the merge of updates, LoRA models that hold one expert."""

import pytest
import torch
from tiny_models import logits, random_adapter, served

from lessonlib.corpora import tickets
from lessonlib.lora.deltas import Delta, put_deltas
from lessonlib.lora.merging import merge_deltas
from lessonlib.models import load_base
from lessonlib.serving.bank import LoRABank
from lessonlib.serving.routing import (
    Router,
    RouterError,
    mean_hidden,
    mixing,
    train_router,
    wrong_expert_rate,
)
from lessonlib.training.labels import LabelTask

close = torch.testing.assert_close

KINDS = 3


def texts(kind, n, seed):
    """Random texts of one kind: half of its tokens are among eight of its own."""
    generator = torch.Generator().manual_seed(100 * seed + kind)
    common = torch.randint(2, 512, (n, 12), generator=generator)
    own = torch.randint(8 * kind + 2, 8 * kind + 10, (n, 12), generator=generator)
    return torch.where(torch.rand((n, 12), generator=generator) < 0.5, own, common)


def features(model, read, seed, n=40):
    h = torch.cat([read(model, texts(kind, n, seed)) for kind in range(KINDS)])
    return h, [kind for kind in range(KINDS) for _ in range(n)]


@pytest.fixture
def bank(make_tiny):
    torch.manual_seed(6)
    return LoRABank(make_tiny(), [random_adapter(make_tiny(), seed, r=2 + seed) for seed in range(KINDS)])


@pytest.fixture
def trained(bank):
    torch.manual_seed(0)
    router = Router(32, KINDS)
    history = train_router(router, *features(bank.model, mean_hidden, seed=0))
    return router, history


# --- what the gate reads ------------------------------------------------------------------------------------


def test_the_mean_is_over_a_texts_own_tokens(tiny, tiny_tokens):
    alone = mean_hidden(tiny, tiny_tokens[:1, :7])
    mask = (torch.arange(12) < 7).long().expand(3, 12)
    close(mean_hidden(tiny, tiny_tokens, mask)[:1], alone, atol=1e-5, rtol=0)
    by_hand = tiny.model(tiny_tokens[:1, :7]).last_hidden_state.mean(1)
    close(alone, by_hand, atol=1e-5, rtol=0)


def test_what_the_gate_reads_is_the_bare_bases(bank, make_tiny, tiny_tokens):
    assert torch.equal(mean_hidden(bank.model, tiny_tokens), mean_hidden(make_tiny(), tiny_tokens))


# --- the gate -----------------------------------------------------------------------------------------------


def test_a_trained_gate_finds_the_expert_of_new_texts(bank):
    torch.manual_seed(0)
    router = Router(32, KINDS)
    h, right = features(bank.model, mean_hidden, seed=1)
    untrained = wrong_expert_rate(router.pick(h), right)[0]
    train_router(router, *features(bank.model, mean_hidden, seed=0))
    rate, _, high = wrong_expert_rate(router.pick(h), right)
    assert untrained > 0.4
    assert rate < 0.15 and high < 0.25


def test_labels_that_mean_nothing_teach_nothing(bank):
    torch.manual_seed(0)
    router, (h, right) = Router(32, KINDS), features(bank.model, mean_hidden, seed=0)
    shuffled = [right[i] for i in torch.randperm(len(right), generator=torch.Generator().manual_seed(3))]
    train_router(router, h, shuffled)
    h, right = features(bank.model, mean_hidden, seed=1)
    assert wrong_expert_rate(router.pick(h), right)[1] > 0.4


def test_only_the_gate_trains(bank, trained):
    _, history = trained
    assert history.trainable == 32 * KINDS + KINDS
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert not any(p.requires_grad for p in bank.model.parameters())


def test_the_size_of_the_features_does_not_matter(trained, bank):
    h, _ = features(bank.model, mean_hidden, seed=1)
    close(trained[0](h), trained[0](100 * h + 7), atol=1e-3, rtol=0)


# --- on the bank --------------------------------------------------------------------------------------------


def test_top_1_serves_the_expert_that_was_picked(bank, trained, make_tiny):
    tokens = torch.cat([texts(kind, 1, seed=1) for kind in range(KINDS)])
    picked = trained[0].pick(mean_hidden(bank.model, tokens))
    assert picked == [0, 1, 2]
    for row, kind in zip(served(bank, picked, tokens), picked, strict=True):
        expert = put_deltas(make_tiny(), held(bank, kind))
        close(row, logits(expert, tokens[kind : kind + 1])[0], atol=1e-5, rtol=0)


def held(bank, kind):
    """The adapter that the bank holds under this number, taken from the bank itself."""
    return {path: Delta(layer.A[kind], layer.B[kind]) for path, layer in bank.layers.items()}


def test_a_mixture_is_the_merge_of_the_experts_with_the_texts_own_weights(bank, make_tiny, tiny_tokens):
    g = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    with mixing(bank, g) as model:
        mixed = logits(model, tiny_tokens)
    experts = [held(bank, kind) for kind in range(KINDS)]
    for n, weights in enumerate(g.tolist()):
        merged = put_deltas(make_tiny(), merge_deltas(experts, weights))
        close(mixed[n], logits(merged, tiny_tokens[n : n + 1])[0], atol=1e-5, rtol=0)


def test_a_mixture_of_one_is_top_1(bank, tiny_tokens):
    with mixing(bank, torch.eye(KINDS)) as model:
        mixed = logits(model, tiny_tokens)
    close(mixed, served(bank, [0, 1, 2], tiny_tokens), atol=1e-5, rtol=0)


def test_mixing_leaves_the_bank_as_it_was(bank, tiny_tokens):
    before = served(bank, [0, 1, 2], tiny_tokens)
    with pytest.raises(ZeroDivisionError), mixing(bank, torch.ones(1, KINDS)):
        raise ZeroDivisionError
    assert torch.equal(served(bank, [0, 1, 2], tiny_tokens), before)


def test_a_mixture_leaves_removed_experts_out(bank, tiny_tokens):
    bank.remove(1)
    with mixing(bank, torch.tensor([[0.0, 1.0]])) as model:
        mixed = logits(model, tiny_tokens)
    close(mixed, served(bank, [2], tiny_tokens), atol=1e-5, rtol=0)


def test_the_gates_weights_sum_to_one_and_agree_with_its_pick(trained, bank):
    h, _ = features(bank.model, mean_hidden, seed=1)
    g = trained[0].mix(h)
    close(g.sum(-1), torch.ones(len(h)))
    assert g.argmax(-1).tolist() == trained[0].pick(h)


# --- what is measured and refused ---------------------------------------------------------------------------


def test_the_wrong_expert_rate_by_hand():
    rate, low, high = wrong_expert_rate([0, 1, 2, 2, 1], [0, 1, 2, 0, 0])
    assert rate == 0.4
    assert (round(low, 3), round(high, 3)) == (0.118, 0.769)  # Wilson's interval of 2 in 5, by R's prop.test


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda bank: train_router(Router(4, 2), torch.ones(2, 4), [0, 2]), "expert 2 is asked for"),
        (lambda bank: train_router(Router(4, 2), torch.ones(2, 4), [0]), "2 texts and 1 experts"),
        (lambda bank: wrong_expert_rate([], []), "at least one"),
        (lambda bank: mixing(bank, torch.ones(1, 2)).__enter__(), r"\(1, 2\), expected \(N, 3\)"),
    ],
)
def test_bad_calls_are_named(bank, call, message):
    with pytest.raises(RouterError, match=message):
        call(bank)


@pytest.mark.model
def test_on_the_real_base_a_gate_tells_tickets_of_two_departments_apart():
    model, tokenizer = load_base(dtype=torch.float32)
    task = LabelTask(tokenizer, ["yes", "no"], template="{text}", max_tokens=24)

    def read(split, n):
        rows = [(text, row) for text, row in zip(tickets(split)["text"], tickets(split)["intent"]) if row < 2]
        kinds = [[text for text, row in rows if row == kind][:n] for kind in (0, 1)]
        batch = task.batch([task.encode(text) for kind in kinds for text in kind], [0] * n + [1] * n)
        mask = (torch.arange(batch.input_ids.shape[1]) <= batch.last[:, None]).long()
        return mean_hidden(model, batch.input_ids, mask), batch.targets.tolist()

    torch.manual_seed(0)
    router = Router(model.config.hidden_size, 2)
    train_router(router, *read("train", 16), steps=60)
    h, right = read("validation", 10)
    assert wrong_expert_rate(router.pick(h), right)[0] <= 0.25
