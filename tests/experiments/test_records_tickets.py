"""The recorded experiments that train on tickets, on a tiny model: what they learn from and what they are judged by.

References: whole texts, never padded, through the model that the experiment leaves behind, its parameters before and after, numpy.
"""

import math

import numpy as np
import pytest
import torch
from tiny_models import ALL, tiny_model
from tiny_records import CHOICES, LONG, TOPICS, home, labels, marks, put, texts

from lessonlib import corpora
from lessonlib.experiments import find
from lessonlib.quantization.qlora import load_four_bit

CHOSEN_ON = 7  # validation tickets, where an experiment takes only some
TWO = {"learning_rate": 3e-2, "steps": 2, "batch_size": 4}
FAR = TWO | {"learning_rate": 0.3}  # for what starts at zero, so that answers change in two steps
NAMED = "Topics: billing, delivery, refund, technical, account, cancellation, question, feedback.\n"

# Of each experiment: settings, the prompt, whether long tickets are left out, all validation tickets or some.
BARE = ("Ticket: {}\nTopic:", True, CHOSEN_ON)
LISTED = (NAMED + "Ticket: {}\nTopic:", False, None)
SHARED = (NAMED + "\nMessage: {}\nCategory:", False, CHOSEN_ON)
TRAINED = {
    "houlsby": ({"m": 4, "seed": 0, **TWO}, *BARE),
    "pfeiffer": ({"m": 4, "seed": 0, **FAR}, *BARE),
    "norms_alone": ({"seed": 0, **TWO}, *BARE),
    "houlsby_and_norms": ({"m": 4, "seed": 0, **TWO}, *BARE),
    "houlsby_started": ({"std": 0.5, "m": 4, "seed": 0, **TWO}, *BARE),
    "houlsby_between": ({"between": "ReLU", "m": 4, "seed": 0, **TWO}, *BARE),
    "subspace": ({"d": 9, "rate": 30.0, "seed": 0, "steps": 2, "batch_size": 4}, *BARE),
    "every_weight": ({"seed": 0, **TWO}, *BARE),
    "lora_16_bits": ({"targets": ["v_proj"], "r": 2, "seed": 0, **FAR}, *BARE),
    "lora": ({"r": 2, "alpha": 4, "targets": ["v_proj"], "seed": 0, **FAR}, *LISTED),
    "prompt_tuning": ({"tokens": 3, "seed": 0, **FAR}, *LISTED),
    "prefix_tuning": ({"tokens": 3, "seed": 0, **FAR}, *LISTED),
    "full_fine_tuning": ({"seed": 0, **TWO}, *LISTED),
    "head_to_head": ({"method": "LoRA", "examples": 24, "seed": 0, **FAR}, *SHARED),
}


@pytest.fixture(autouse=True)
def fewer(base, monkeypatch):
    """Seven validation tickets where the experiments take a hundred; three layers where the base has thirty."""
    put(monkeypatch, "VALIDATION", CHOSEN_ON, int)
    put(monkeypatch, "LAST", 1, int)
    put(monkeypatch, "SPECTRUM_OF", OfThree("model.layers.{}.self_attn.q_proj"), str)
    put(monkeypatch, "ALL", 24, int)
    base.layers = 3
    return base


class OfThree(str):
    """The path of which a spectrum is kept, where three layers stand for thirty."""

    def format(self, layer):
        return super().format({0: 0, 15: 1, 29: 2}[layer])


def asked(template: str, split: str, first: int | None = None) -> list[str]:
    return [template.format(text) for text in texts(split, first)]


def right(answers: list[int], split: str, column: str = "intent") -> float:
    return float(np.mean(np.array(answers) == labels(split, column, len(answers))))


@pytest.fixture
def make(base, monkeypatch):
    """make(name): call the experiment of TRAINED."""

    def make(name):
        if name == "head_to_head":  # other texts are another test's
            put(monkeypatch, "off_task", lambda model, tokenizer: {})
        return find(name).function(**TRAINED[name][0])

    return make


# --- what a trained model is judged by ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
def test_a_model_is_taught_the_training_tickets_and_scored_on_the_test_tickets(name, base, make):
    _, template, short, first = TRAINED[name]
    found = make(name)
    model, prompts = base.models[0], asked(template, "test")
    assert found["score"].targets == labels("test")
    assert found["score"].predictions == base.answers(model, prompts, TOPICS)
    assert found["score"].predictions != base.answers(base.fresh(), prompts, TOPICS)  # two steps have moved it
    chosen_on = base.answers(model, asked(template, "validation", first), TOPICS)
    assert found["validation"] == pytest.approx(right(chosen_on, "validation"))
    assert base.scored_on == marks("test") | marks("validation", first)
    assert base.trained_on and base.trained_on <= marks("train", LONG if short else None)
    lessons = base.lessons()
    assert len(lessons) == 8
    assert [target for _, target in lessons] == [labels("train")[number] for (_, number), _ in lessons]


def test_all_short_tickets_are_taught_and_no_long_one(base):
    find("houlsby").function(m=2, seed=0, learning_rate=1e-3, steps=6, batch_size=4)
    assert base.trained_on == marks("train", LONG)  # five batches, and one of the next epoch


@pytest.mark.parametrize("task", ["sentiment", "urgency"])
@pytest.mark.parametrize("name", ["no_adapter", "houlsby"])
def test_another_question_has_another_columns_answers(name, task, base):
    settings = {"m": 4, "seed": 0, **TWO} if name == "houlsby" else {}
    found = find(name).function(task=task, **settings)
    heading = f"Ticket: {{}}\n{task.capitalize()}:"
    assert found["task"] == task and found["score"].targets == labels("test", task)
    answers = base.answers(base.models[0], asked(heading, "test"), CHOICES[task])
    assert found["score"].predictions == answers
    chosen_on = base.answers(base.models[0], asked(heading, "validation", CHOSEN_ON), CHOICES[task])
    assert found["validation"] == pytest.approx(right(chosen_on, "validation", task))
    assert [target for _, target in base.lessons()] == [labels("train", task)[n] for (_, n), _ in base.lessons()]


def test_a_recorded_loss_is_the_mean_surprise_at_the_right_label(base):
    found = find("no_adapter").function()
    tokens = [base.tokenizer(f" {word}").input_ids[0] for word in TOPICS]
    for split, first in (("test", None), ("validation", CHOSEN_ON)):
        surprises = []
        for prompt, label in zip(asked("Ticket: {}\nTopic:", split, first), labels(split)):
            with torch.no_grad():
                logits = base.fresh()(torch.tensor([base.tokenizer(prompt).input_ids])).logits[0, -1, tokens]
            logits = logits.double().numpy()
            surprises.append(np.log(np.exp(logits).sum()) - logits[label])
        assert found[f"{split}_loss"] == pytest.approx(np.mean(surprises), abs=2e-4)


def test_the_untrained_model_is_asked_and_not_taught(base):
    found = find("zero_shot").function()
    prompts = asked(NAMED + "Ticket: {}\nTopic:", "test")
    assert found["score"].predictions == base.answers(base.fresh(), prompts, TOPICS)
    assert found["score"].targets == labels("test") and not base.fits and not base.trained_on
    validation = base.answers(base.fresh(), asked(NAMED + "Ticket: {}\nTopic:", "validation"), TOPICS)
    assert found["validation"] == pytest.approx(right(validation, "validation"))


# --- what trains -------------------------------------------------------------------------------------------------------


def moved(base, name: str, make) -> list[str]:
    make(name)
    return [path for path, p in base.models[0].named_parameters() if p.requires_grad]


@pytest.mark.parametrize("name", ["houlsby", "houlsby_started", "houlsby_between"])
def test_adapters_stand_behind_attention_and_behind_the_feed_forward_part(name, base, make):
    paths = {path.split(".adapter")[0] for path in moved(base, name, make)}
    ends = ("self_attn.o_proj", "mlp.down_proj")
    assert paths == {f"model.layers.{layer}.{end}" for layer in range(3) for end in ends}


def test_pfeiffers_adapters_stand_behind_the_feed_forward_part_alone(base, make):
    paths = {path.split(".adapter")[0] for path in moved(base, "pfeiffer", make)}
    assert paths == {f"model.layers.{layer}.mlp.down_proj" for layer in range(3)}


def test_norms_alone_are_three_layers_two_and_the_last(base, make):
    assert moved(base, "norms_alone", make)
    assert make("norms_alone")["trainable"] == 32 * (3 * 2 + 1)


def test_adapters_and_norms_are_both(base, make):
    adapters, norms = make("houlsby")["trainable"], make("norms_alone")["trainable"]
    assert make("houlsby_and_norms")["trainable"] == adapters + norms
    assert adapters == 3 * 2 * (2 * 32 * 4 + 4 + 32)


def test_a_start_at_random_has_the_scale_that_is_asked_for(base, monkeypatch):
    spreads = {}
    real = home("houlsby_started").train_and_judge

    def noting(model, *rest, **settings):
        up = [p for path, p in model.named_parameters() if path.endswith("up.weight")]
        spreads[std] = torch.stack(up).std().item()
        return real(model, *rest, **settings)

    monkeypatch.setattr(home("houlsby_started"), "train_and_judge", noting)
    for std in (0.01, 1.0):
        find("houlsby_started").function(std=std, m=4, seed=0, **TWO)
    # A Gaussian that is cut off at two standard deviations has 0.880 of the spread.
    assert spreads == pytest.approx({0.01: 0.0088, 1.0: 0.88}, rel=0.1)


def test_a_bottleneck_has_the_function_between_its_layers_that_its_name_says(base):
    x = torch.randn(5, 8)
    for name, between in {
        "ReLU": lambda h: np.maximum(h, 0),
        "nothing": lambda h: h,
        "GELU": lambda h: h * 0.5 * (1 + np.vectorize(math.erf)(h / 2**0.5)),
    }.items():
        one = home("houlsby_between").BETWEEN[name](8, 3)
        torch.nn.init.normal_(one.up.weight)
        down, up = (m.weight.detach().numpy() for m in (one.down, one.up))
        h = between(x.numpy() @ down.T + one.down.bias.detach().numpy())
        np.testing.assert_allclose(one(x).detach().numpy(), x.numpy() + h @ up.T, atol=1e-5)


@pytest.mark.parametrize("name", ["subspace", "every_weight"])
def test_the_matrices_of_the_last_layers_move_and_no_others(name, base, make):
    make(name)
    model, before = base.models[0], base.fresh()
    put_in = {path for path, module in model.named_modules() if hasattr(module, "base")}
    parts = [f"self_attn.{m}" for m in ("q_proj", "k_proj", "v_proj", "o_proj")]
    parts += [f"mlp.{m}" for m in ("gate_proj", "up_proj", "down_proj")]
    assert put_in == {f"model.layers.2.{part}" for part in parts}  # LAST is one of three layers here
    seen = []
    for one in (before, model):  # what leaves the second layer is what it was, what leaves the third is not
        with torch.no_grad():
            seen.append(one.model(torch.tensor([[5, 6, 7]]), output_hidden_states=True).hidden_states)
    assert torch.equal(seen[0][2], seen[1][2]) and not torch.equal(seen[0][3], seen[1][3])


def test_a_step_is_as_long_in_every_number_of_dimensions(base):
    for d in (4, 16):
        find("subspace").function(d=d, rate=6.0, seed=0, steps=1, batch_size=4)
    assert [settings["learning_rate"] for *_, settings in base.fits] == pytest.approx([3.0, 1.5])
    assert [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in base.models] == [4, 16]


def test_every_weight_moves_in_float32_by_what_training_says(base, make):
    make("every_weight")
    (free,) = {type(m) for m in base.models[0].modules() if hasattr(m, "move")}
    layer = next(m for m in base.models[0].modules() if isinstance(m, free))
    assert layer.move.dtype is torch.float32 and layer.move.abs().max() > 0
    x = torch.randn(2, layer.base.in_features)
    whole = (layer.base.weight + layer.move).detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), x.numpy() @ whole.T, atol=1e-5)


def test_lora_trains_its_two_matrices_at_its_targets_with_its_scale(base, make):
    for name, scale in (("lora", 2), ("lora_16_bits", 2), ("head_to_head", 2)):
        base.models.clear()
        trained = moved(base, name, make)
        ends = ALL if name == "head_to_head" else ["v_proj"]
        assert len(trained) == 2 * 3 * len(ends) and all(path.split(".")[-2] in ends for path in trained)
        assert {m.scale for m in base.models[0].modules() if hasattr(m, "scale")} == {scale}


def test_the_spectrum_is_that_of_what_training_changed(base, make):
    found = make("full_fine_tuning")
    before, after = base.fresh(), base.models[0]
    for layer in range(3):
        path = f"model.layers.{layer}.self_attn.q_proj"
        change = (after.get_submodule(path).weight - before.get_submodule(path).weight).detach().numpy()
        values = np.linalg.svd(change.astype(np.float64), compute_uv=False)
        assert found["spectrum"][path] == pytest.approx(values.tolist(), rel=1e-2, abs=1e-5)
        share = np.cumsum(values**2) / np.sum(values**2)
        assert found["rank_90"][path] == 1 + int((share < 0.9).sum())
    assert len(found["rank_90"]) == 3 and sum(map(len, found["spectrum"].values())) == 3 * 32


def test_a_soft_prompt_and_a_prefix_start_from_the_sentence_about_the_task(base, monkeypatch):
    started = {}
    for name in ("prompt_tuning", "prefix_tuning"):
        monkeypatch.setattr(
            home(name),
            "fit",
            lambda model, batches, name=name, **_: started.setdefault(name, model) and stop(),
        )
        with pytest.raises(Stopped):
            find(name).function(tokens=3, seed=0, **TWO)
    ids = torch.tensor([base.tokenizer(SENTENCE).input_ids[:3]])
    vectors = base.fresh().model.embed_tokens(ids)[0]
    (prompt,) = [p for p in started["prompt_tuning"].parameters() if p.requires_grad]
    assert torch.equal(prompt.detach(), vectors.detach())
    keys = base.fresh().model(ids, use_cache=True).past_key_values.layers[0].keys  # (1, heads, tokens, width)
    kept = [p.detach() for p in started["prefix_tuning"].parameters() if p.requires_grad]
    assert any(torch.allclose(K[0].flatten(), keys.flatten(), atol=1e-6) for K in kept), [K.shape for K in kept]


SENTENCE = "Sort the customer's support ticket by its topic. Topic:"


class Stopped(Exception):
    """The test has seen what it wanted."""


def stop():
    raise Stopped


# --- over four bits ----------------------------------------------------------------------------------------------------


def test_qlora_trains_lora_over_a_base_in_four_bits(base, tmp_path, monkeypatch):
    tiny_model(hidden_size=128, intermediate_size=192, max_position_embeddings=4096).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)

    def four_bits():
        model, tokenizer = load_four_bit(source=tmp_path, dtype=torch.float32)
        base.models.append(base.watch(model))
        return model, tokenizer

    put(monkeypatch, "load_four_bit", four_bits)
    found = find("qlora").function(targets=["q_proj"], r=2, seed=0, **TWO)
    (model,) = base.models
    assert found["score"].targets == labels("test")
    assert found["score"].predictions == base.answers(model, asked("Ticket: {}\nTopic:", "test"), TOPICS)
    assert base.trained_on <= marks("train", LONG) and base.scored_on == marks("test") | marks("validation", 7)
    trained = [path for path, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all("q_proj" in path for path in trained)
    assert {m.base.weight.dtype for m in model.modules() if hasattr(m, "base")} == {torch.uint8}  # two a byte
    whole = sum(p.numel() for p in tiny_model(hidden_size=128, intermediate_size=192).parameters())
    assert found["bytes"] < 4 * whole  # as float32


# --- a baseline that reads no language ---------------------------------------------------------------------------------


def test_the_baseline_counts_words_and_its_strength_is_chosen_on_validation(base, monkeypatch):
    import sklearn.base
    import sklearn.linear_model

    seen = {}

    class Told(sklearn.base.BaseEstimator):
        """A classifier in the place of the real one; at each C it is right about as many as C is long."""

        def __init__(self, C, **_):
            self.C = C

        def fit(self, x, y):
            seen[self.C], self.fitted_ = list(y), True
            return self

        def predict(self, x):
            return [self.C % 7] * x.shape[0]

        def score(self, x, y):
            seen["chosen on"] = list(y)
            return {1: 0.2, 10: 0.6, 100: 0.4}[self.C]

    real = sklearn.linear_model.LogisticRegression
    for module in [sklearn.linear_model, *modules_with("LogisticRegression", real)]:
        monkeypatch.setattr(module, "LogisticRegression", Told)
    found = find("word_counts").function()
    assert [seen[C] for C in (1, 10, 100)] == [labels("train")] * 3 and seen["chosen on"] == labels("validation")
    assert found["validation"] == 0.6 and found["score"].predictions == [3] * 12  # C is 10
    assert found["score"].targets == labels("test")


def modules_with(name: str, thing) -> list:
    import sys

    inside = [module for path, module in sys.modules.items() if path.startswith("lessonlib")]
    return [module for module in inside if vars(module).get(name) is thing]


# --- LoRA's variants ---------------------------------------------------------------------------------------------------


def test_of_a_variants_rates_the_one_that_validation_chose_is_tested(base):
    rates = [1e-2, 1e-4, 3e-2]
    found = find("variant_of_lora").function(
        variant="LoRA", learning_rates=rates, seed=0, steps=2, batch_size=4, longest=180
    )
    prompts = asked("Ticket: {}\nTopic:", "validation", CHOSEN_ON)
    by_hand = [right(base.answers(model, prompts, TOPICS), "validation") for model in base.models]
    assert [trial["validation"] for trial in found["trials"]] == pytest.approx(by_hand)
    best = max(range(3), key=lambda i: (by_hand[i], -found["trials"][i]["validation_loss"]))
    assert found["learning_rate"] == rates[best]
    tested = base.answers(base.models[best], asked("Ticket: {}\nTopic:", "test"), TOPICS)
    assert found["score"].predictions == tested and found["score"].targets == labels("test")
    assert base.trained_on <= marks("train", LONG) and base.scored_on == marks("test") | marks("validation", 7)


def test_digits_are_learnt_lying_and_rates_are_chosen_on_digits_held_out(base, monkeypatch):
    x, sets, judged = home("variant_on_digits"), [], []
    batches, score = x.image_batches, x.score
    monkeypatch.setattr(
        x, "image_batches", lambda images, steps, *rest: sets.append(images) or batches(images, 2, *rest)
    )
    monkeypatch.setattr(x, "score", lambda model, images: judged.append(images) or score(model, images))
    found = find("variant_on_digits").function("LoRA", [1e-2, 3e-2], seed=0, steps=2, batch_size=8)
    upright, *lying = sets
    train, test = (corpora.digits.digits(split) for split in ("train", "test"))
    assert torch.equal(upright.x, train.x)

    def turned(images):  # a quarter, one way or the other
        return [np.rot90(images.reshape(-1, 8, 8), k, axes=(1, 2)).reshape(-1, 64) for k in (1, 3)]

    (way,) = [k for k, one in enumerate(turned(train.x.numpy())) if np.array_equal(one[300:], lying[0].x)]
    expected = {"train": turned(train.x.numpy())[way], "test": turned(test.x.numpy())[way]}
    assert len(lying) == 2 and all(np.array_equal(one.x, expected["train"][300:]) for one in lying)
    assert [len(images) for images in judged] == [300, 300, len(test)]
    assert np.array_equal(judged[0].x, expected["train"][:300]) and torch.equal(judged[0].y, train.y[:300])
    assert np.array_equal(judged[2].x, expected["test"]) and found["score"].targets == test.y.tolist()
    best = max(found["trials"], key=lambda trial: (trial["validation"], -trial["validation_loss"]))
    assert found["learning_rate"] == best["learning_rate"]


# --- with one thing changed --------------------------------------------------------------------------------------------

GAP = {"method": "LoRA", "seed": 0, "learning_rate": 3e-2, "steps": 6, "batch_size": 4}


def test_under_another_task_urgency_is_taught_and_asked(base):
    found = find("gap").function("another task", **GAP)
    prompts = asked("Ticket: {}\nUrgency:", "test")
    assert found["score"].targets == labels("test", "urgency")
    assert found["score"].predictions == base.answers(base.models[0], prompts, CHOICES["urgency"])
    assert base.scored_on == marks("test")
    assert all(target == labels("train", "urgency")[n] for (_, n), target in base.lessons())


def test_a_quarter_of_the_labels_that_are_taught_is_wrong_and_none_that_is_asked(base):
    found = find("gap").function("a quarter of the labels wrong", **GAP)
    assert len(base.lessons()) == 24  # every ticket once
    assert sum(target != labels("train")[n] for (_, n), target in base.lessons()) == 6
    assert found["score"].targets == labels("test")
    prompts = asked(SHARED[0], "test")
    assert found["score"].predictions == base.answers(base.models[0], prompts, TOPICS)


def test_a_base_without_a_third_of_its_layers_is_taught_the_same(base):
    find("gap").function("a third of the base's layers gone", **GAP)
    (model,) = base.models
    kept = [layer.mlp.up_proj.base.weight for layer in model.model.layers]
    first = [layer.mlp.up_proj.weight for layer in base.fresh().model.layers]
    assert len(kept) == 2 and all(map(torch.equal, kept, first))
    assert all(target == labels("train")[n] for (_, n), target in base.lessons())


def test_fewer_examples_are_as_many_as_are_asked_for(base, monkeypatch):
    put(monkeypatch, "off_task", lambda model, tokenizer: {"sentiment_n": 0})
    find("head_to_head").function("LoRA", examples=8, seed=0, learning_rate=1e-3, steps=4, batch_size=4)
    shown = {number for (_, number), _ in base.lessons()}
    assert len(shown) == 8 and sorted(labels("train")[n] for n in shown) == list(range(8))  # one a topic


def test_what_a_way_costs_is_counted_before_it_has_learnt(base, monkeypatch):
    put(monkeypatch, "ANSWERED", 1, int)
    found = find("what_it_costs").function("LoRA", rounds=1)
    prompts = asked(SHARED[0], "test", 8)
    assert found["score"].targets == labels("test", first=8)
    assert found["score"].predictions == base.answers(base.fresh(), prompts, TOPICS)
    assert found["trainable"] == 8 * 3 * (64 + 48 + 48 + 64 + 96 + 96 + 96)
    # The batch is the eight longest training tickets: here no more than four are long.
    longest = sorted(range(24), key=lambda i: -len(texts("train")[i]))[:8]
    assert base.trained_on == {("train", number) for number in longest}
