"""The recorded experiments of 05, in small: parts taken out of a language model, and lottery tickets of digits.

References: a copy of the model with the part cut out by hand, perplexity by definition, numpy on the weights that a
network had before and after each training.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_records import TOPICS, home, labels, marks, marks_in, put, texts
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.corpora import digits
from lessonlib.experiments import find
from lessonlib.networks import mlp

# --- the language model ------------------------------------------------------------------------------------------------

JUDGED = 10  # test tickets
INTENT = (
    "Topics: billing, delivery, refund, technical, account, cancellation, question, feedback.\nTicket: {}\nTopic:"
)


@pytest.fixture
def pruned(base, monkeypatch):
    """Two steps of training, ten test tickets, a few lines of text for the perplexity."""
    base.layers = 4
    monkeypatch.setitem(home("importances").TRAINING, "steps", 2)
    put(monkeypatch, "TEXTS", JUDGED, int)
    few = {"fact": ["The late parcel has a broken question."] * 12}
    monkeypatch.setattr(corpora, "handbook", lambda: few)
    monkeypatch.setattr(corpora, "replies", lambda split: {"plain": [f"Thanks for the {split} refund."] * 12})
    return base


def cut(base, change):
    """A copy of the tuned model, changed by hand."""
    model = copy.deepcopy(base.models[0])
    with torch.no_grad():
        change(model)
    return model


def answers(base, model) -> list[int]:
    return base.answers(model, [INTENT.format(text) for text in texts("test", JUDGED)], TOPICS)


def perplexity(base, model) -> float:
    lines = ["The late parcel has a broken question."] * 12 + ["Thanks for the test refund."] * 12
    ids = base.tokenizer("\n".join(lines)).input_ids
    losses = []
    for begin in range(0, len(ids) - 127, 128):
        window = torch.tensor([ids[begin : begin + 128]])
        with torch.no_grad():
            losses.append(F.cross_entropy(model(window).logits[0, :-1].double(), window[0, 1:]).item())
    return float(np.exp(np.mean(losses)))


def agrees(base, found, model) -> None:
    assert found["score"].targets == labels("test", first=JUDGED)
    assert found["score"].predictions == answers(base, model)
    assert found["perplexity"] == pytest.approx(perplexity(base, model), rel=1e-4)
    assert found["perplexity"] != pytest.approx(perplexity(base, base.fresh()), rel=1e-4)


def test_a_pruned_model_is_judged_on_test_tickets_and_taught_both_tasks(pruned):
    base = pruned
    found = find("weights_removed").function(share=0.5)
    assert base.scored_on == marks("test", JUDGED) and found["score"].targets == labels("test", first=JUDGED)
    (first, second) = base.fits[0][1]
    for batch, column in ((first, "intent"), (second, "sentiment")):
        rows = [marks_in(base.tokenizer.decode(row))[0] for row in batch.input_ids.tolist()]
        assert [split for split, _ in rows] == ["train"] * 8
        assert batch.targets.tolist() == [labels("train", column)[n] for _, n in rows]


def test_the_smallest_weights_of_each_matrix_are_gone(pruned):
    found = find("weights_removed").function(share=0.4)

    def smallest(model):
        for layer in model.model.layers:
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    sizes = module.weight.abs().flatten()
                    module.weight.view(-1)[np.argsort(sizes.numpy())[: round(0.4 * len(sizes))]] = 0

    agrees(pruned, found, cut(pruned, smallest))


@pytest.mark.parametrize("order", ["intent", "random"])
def test_the_least_important_heads_are_silent(order, pruned, monkeypatch):
    importance = {"intent": torch.rand(4, 4).tolist(), "sentiment": torch.rand(4, 4).tolist()}
    kept = {f"{task}, {half} half": rows for task, rows in importance.items() for half in ("first", "second")}
    run = SimpleNamespace(results={"importance": kept})
    put(monkeypatch, "load_runs", lambda name, **_: {"importances": [run]}[name])
    silent, gated = [], home("heads_removed").without_heads
    put(monkeypatch, "without_heads", lambda model, heads: silent.extend(heads) or gated(model, heads))
    found = find("heads_removed").function(share=0.25, order=order)
    assert found["removed"] == len(set(silent)) == 4
    weakest = np.argsort(np.array(importance["intent"]).ravel())[:4]
    expected = [(int(i) // 4, int(i) % 4) for i in weakest]
    assert (silent == expected) == (order == "intent")

    def silence(model):
        for layer, head in silent:
            model.model.layers[layer].self_attn.o_proj.weight[:, 8 * head : 8 * head + 8] = 0

    agrees(pruned, found, cut(pruned, silence))


@pytest.mark.parametrize("order, gone", [("influence", [1, 3]), ("deepest", [1, 2])])
def test_layers_of_least_influence_or_the_deepest_but_the_last_are_left_out(order, gone, pruned, monkeypatch):
    run = SimpleNamespace(results={"influence": [0.9, 0.1, 0.4, 0.2]})
    put(monkeypatch, "load_runs", lambda name, **_: {"importances": [run]}[name])
    found = find("layers_removed").function(count=2, order=order)
    assert found["layers"] == gone

    def without(model):
        model.model.layers = torch.nn.ModuleList(layer for i, layer in enumerate(model.model.layers) if i not in gone)

    agrees(pruned, found, cut(pruned, without))


def test_importance_is_of_either_task_on_either_half_of_some_training_tickets(pruned):
    base = pruned
    base_read = base.reads
    find("weights_removed").function(share=0.0)  # trains, and keeps the adapter
    base_read.clear(), base.models.clear()
    found = find("importances").function(texts=6)
    seen = [(n, "feeling" in text) for text in base.read(True) for _, n in marks_in(text)]
    halves = [seen[i : i + 3] for i in range(0, 12, 3)]
    assert [sorted(n for n, _ in half) for half in halves] == [[0, 1, 2], [3, 4, 5]] * 2
    assert [{sentiment for _, sentiment in half} for half in halves] == [{False}] * 2 + [{True}] * 2
    assert list(found["importance"]) == [
        f"{task}, {half} half" for task in ("intent", "sentiment") for half in ("first", "second")
    ]
    agrees(base, found, base.models[0])
    assert found["perplexity before"] == pytest.approx(perplexity(base, base.fresh()), rel=1e-4)
    prompts = [
        f"Ticket: {text}\nThe customer's feeling (negative, neutral or positive):" for text in texts("test", JUDGED)
    ]
    assert found["sentiment"] == base.answers(base.models[0], prompts, ["negative", "neutral", "positive"])


def test_importance_is_what_the_loss_feels_of_each_head(pruned):
    """Of the first text by hand: the loss with a head's output a little larger, minus that with it a little smaller."""
    base = pruned
    found = find("importances").function(texts=2)
    model, step = base.models[0], 1e-2
    tokens = [base.tokenizer(f" {word}").input_ids[0] for word in TOPICS]
    ids = torch.tensor([base.tokenizer(INTENT.format(texts("train")[0])).input_ids])
    felt = np.zeros((4, 4))
    for layer in range(4):
        weight = model.model.layers[layer].self_attn.o_proj.weight
        for head in range(4):
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    columns, before = weight[:, 8 * head : 8 * head + 8], weight.clone()
                    columns.mul_(1 + sign * step)
                    logits = model(ids).logits[0, -1, tokens]
                    losses.append(F.cross_entropy(logits, torch.tensor(labels("train")[0])).item())
                    weight.copy_(before)
            felt[layer, head] = abs(losses[0] - losses[1]) / (2 * step)
    felt /= np.linalg.norm(felt, axis=1, keepdims=True)
    np.testing.assert_allclose(found["importance"]["intent, first half"], felt, atol=2e-3)


# --- lottery tickets ---------------------------------------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch):
    """Each call of `networks.mlp.learn`: the weights before and after, the trained network, its images and settings."""
    calls, learn = [], mlp.learn

    def weights(network):
        return [m.weight.detach().numpy().copy() for m in network if isinstance(m, torch.nn.Linear)]

    def noting(network, images, **settings):
        before = weights(network)
        learn(network, images, **settings)
        network.zero_grad()
        trained = copy.deepcopy(network)
        calls.append(
            SimpleNamespace(before=before, after=weights(network), trained=trained, images=images, settings=settings)
        )

    monkeypatch.setattr(home("lottery"), "learn", noting)
    monkeypatch.setitem(home("lottery").STEPS, "digits", 4)
    return calls


ONE = {"data": "digits", "seed": 1, "learning_rate": 2e-2, "rounds": 1, "share": 0.2}


def predictions(weights, biases, x) -> list[int]:
    for i, (W, b) in enumerate(zip(weights, biases)):
        x = x @ W.T + b
        x = np.maximum(x, 0) if i < 2 else x
    return x.argmax(1).tolist()


def test_a_learning_rate_is_tried_on_training_digits_that_were_held_out(trainings):
    found = find("learning_rate_trial").function(data="digits", learning_rate=2e-2, seed=0)
    (call,), train = trainings, digits.digits("train")
    assert torch.equal(call.images.x, train.x[:1040]) and torch.equal(call.images.y, train.y[:1040])
    assert call.settings["learning_rate"] == 2e-2 and call.settings["steps"] == 4
    biases = [m.bias.detach().numpy() for m in call.trained if isinstance(m, torch.nn.Linear)]
    assert found["score"].targets == train.y[1040:].tolist()
    assert found["score"].predictions == predictions(call.after, biases, train.x[1040:].numpy())


def pruned_by(mask: list[np.ndarray], scores: list[np.ndarray], together: bool) -> None:
    """Each weight that is gone has a score of at most that of each weight that is left."""
    layers = [(np.concatenate([m.ravel() for m in mask]), np.concatenate([s.ravel() for s in scores]))]
    for kept, score in layers if together else [(m.ravel(), s.ravel()) for m, s in zip(mask, scores)]:
        assert score[~kept].max() <= score[kept].min() + 1e-9


def test_a_winning_ticket_is_the_start_where_the_trained_weights_are_large(trainings):
    found = find("lottery").function(**ONE)
    dense, ticket, *controls = trainings
    mask = [W != 0 for W in ticket.before]
    pruned_by(mask, [np.abs(W) for W in dense.after], together=False)
    for kept, first, again in zip(mask, dense.before, ticket.before):
        assert np.array_equal(again, np.where(kept, first, 0))
    gone = 1 - sum(kept.sum() for kept in mask) / sum(kept.size for kept in mask)
    assert found["sparsity"] == pytest.approx([0, gone]) and 0.19 < gone < 0.21
    assert list(found["left"][1].values()) == [int(kept.sum()) for kept in mask]
    # The controls, for the dense network and for the ticket: as sparse in each layer, from what their names say.
    (other, random, cut) = controls[3:]
    assert [int((W != 0).sum()) for W in random.before] == [int(kept.sum()) for kept in mask]
    assert all(np.array_equal(W != 0, kept) for W, kept in zip(other.before, mask))
    assert not any(np.array_equal(W, own) for W, own in zip(other.before, ticket.before))
    assert not any(np.array_equal(W != 0, kept) for W, kept in zip(random.before, mask))
    for one in (random, cut):  # both begin where the ticket began
        assert all(np.array_equal(W[W != 0], first[W != 0]) for W, first in zip(one.before, dense.before))
    pruned_by([W != 0 for W in cut.before], [np.abs(W) for W in dense.after], together=False)
    assert found["score"].targets == digits.digits("test").y.tolist()
    assert all(torch.equal(call.images.x, digits.digits("train").x) for call in trainings)
    biases = [m.bias.detach().numpy() for m in cut.trained if isinstance(m, torch.nn.Linear)]
    said = predictions(cut.after, biases, digits.digits("test").x.numpy())
    share = np.mean(np.array(said) == digits.digits("test").y.numpy())
    assert found["accuracy"]["one cut"][1] == pytest.approx(share)


def test_the_smallest_of_the_whole_network_are_gone_across_layers(trainings):
    find("across_layers").function(**ONE)
    dense, ticket = trainings
    mask = [W != 0 for W in ticket.before]
    pruned_by(mask, [np.abs(W) for W in dense.after], together=True)
    with pytest.raises(AssertionError):  # a layer's own smallest are another choice
        shares = [kept.mean() for kept in mask]
        assert shares == pytest.approx([shares[0]] * 3, abs=0.01)


def test_by_gradient_the_weights_are_gone_whose_product_with_their_gradient_is_small(trainings):
    find("by_gradient").function(**ONE)
    dense, ticket = trainings
    images, layers = digits.digits("train"), [m for m in dense.trained if isinstance(m, torch.nn.Linear)]
    F.cross_entropy(dense.trained(images.x), images.y).backward()
    scores = [(layer.weight.grad * layer.weight).abs().detach().numpy() for layer in layers]
    pruned_by([W != 0 for W in ticket.before], scores, together=False)


def test_a_rewound_ticket_goes_back_to_the_weights_after_some_steps(trainings):
    find("rewound").function(steps=3, **ONE)
    early, dense, ticket = trainings
    assert early.settings["steps"] == 3
    for late, first, again in zip(early.after, dense.before, ticket.before):
        assert np.array_equal(first, late) and np.array_equal(again[again != 0], late[again != 0])
    assert not any(np.array_equal(W, start) for W, start in zip(early.after, early.before))
