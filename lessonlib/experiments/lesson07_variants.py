"""The variants of LoRA in notebook 07: where it stands, its scale, its rates, its relatives, on equal terms.

Each variant is trained once for every rate; the rate with the best validation accuracy is kept, and only that model
sees the test set. All are tried on digits that lie on their side, which takes seconds and so allows two seeds, and
those in ON_TICKETS on short tickets too. `python -m lessonlib.experiments lesson07_variants` records what is missing; it resumes
where it was stopped.
"""

import copy
import functools
from dataclasses import dataclass, field

from lessonlib import corpora
from lessonlib.corpora.digits import Images, digits
from lessonlib.lora import LoRALinear, add_lora
from lessonlib.lora.adalora import adalora_loss, adalora_optimizer, add_adalora, ranks
from lessonlib.lora.dora import DoRALinear
from lessonlib.lora.variants import DropoutLoRALinear, LoRAFALinear, RsLoRALinear, lora_plus, tie_lora
from lessonlib.models import load_base
from lessonlib.networks.mlp import score
from lessonlib.networks.vision_transformer import VisionTransformer, image_batches, image_loss, turned
from lessonlib.runs import Run, load_runs
from lessonlib.training import fit, seed_everything
from lessonlib.training.labels import label_loss

from .registry import experiment, record
from .tickets import ALL_LINEAR, VALIDATION, judged, short_tickets, test_intents, ticket_task

ATTENTION, FEED_FORWARD = ALL_LINEAR[:4], ALL_LINEAR[4:]
LAYERS = 30


def _test_digits(run: Run) -> list[int]:
    return digits("test").y.tolist()


@dataclass(frozen=True)
class Variant:
    """What departs from plain LoRA: its arguments, the layer, the layers of the model, the optimizer."""

    targets: list[str] = field(default_factory=lambda: ALL_LINEAR)
    r: int = 8
    alpha: float | None = None  # None: twice the rank
    layer: type = LoRALinear
    layers: range = range(LAYERS)
    ratio: float = 1.0  # B's learning rate over A's
    tied: bool = False
    adaptive: bool = False


# The ranks of the first three make their parameters as many as those of "LoRA", to 2 in 100.
VARIANTS = {
    "LoRA": Variant(),
    "queries, values": Variant(["q_proj", "v_proj"], r=42),
    "attention": Variant(ATTENTION, r=21),
    "feed-forward": Variant(FEED_FORWARD, r=13),
    "first ten layers": Variant(layers=range(10)),
    "middle ten layers": Variant(layers=range(10, 20)),
    "last ten layers": Variant(layers=range(20, 30)),
    "tied": Variant(tied=True),
    "A frozen": Variant(layer=LoRAFALinear),
    "dropout": Variant(layer=functools.partial(DropoutLoRALinear, p=0.1)),
    "alpha = r": Variant(alpha=8),
    "alpha = 8 r": Variant(alpha=64),
    "LoRA+, ratio 4": Variant(ratio=4),
    "LoRA+, ratio 16": Variant(ratio=16),
    "rank 64, alpha 16": Variant(r=64, alpha=16),
    "rsLoRA, rank 64": Variant(r=64, alpha=16, layer=RsLoRALinear),
    "DoRA": Variant(layer=DoRALinear),
    "AdaLoRA": Variant(adaptive=True),
}


def adapted(model, variant: Variant, steps: int):
    """The model with the variant's layers, ready to train."""
    alpha = 2 * variant.r if variant.alpha is None else variant.alpha
    if variant.adaptive:
        return add_adalora(model, variant.targets, steps=steps, r=variant.r, alpha=alpha)
    inside = [f".layers.{layer}." for layer in variant.layers]
    paths = [
        path
        for path, _ in model.named_modules()
        if path.rpartition(".")[2] in variant.targets and any(layer in f".{path}" for layer in inside)
    ]
    add_lora(model, paths, r=variant.r, alpha=alpha, layer=variant.layer)
    return tie_lora(model) if variant.tied else model


def training(model, variant: Variant, learning_rate: float) -> dict:
    """What `fit` takes beside model, batches and loss. The rate is the geometric mean of A's and B's where they differ."""
    if variant.adaptive:
        return {"learning_rate": learning_rate, "optimizer": adalora_optimizer(model)}
    if variant.ratio == 1:
        return {"learning_rate": learning_rate}
    return {"learning_rate": learning_rate / variant.ratio**0.5, "optimizer": lora_plus(model, variant.ratio)}


# --- on tickets ------------------------------------------------------------------------------------------------------


@experiment(right_answers=test_intents)
def variant_of_lora(
    variant: str, learning_rates: list[float], seed: int, steps: int, batch_size: int, longest: int
) -> dict:
    """One of VARIANTS, trained at each rate and judged on validation tickets; the better one also on the test's."""
    trials, best = [], None
    validation, test = corpora.tickets("validation").select(range(VALIDATION)), corpora.tickets("test")
    for rate in learning_rates:
        seed_everything(seed)
        model, tokenizer = load_base()
        model = adapted(model, VARIANTS[variant], steps)
        task = ticket_task(tokenizer)
        batches = task.training_batches(
            *short_tickets(longest=longest), steps=steps, batch_size=batch_size, seed=seed
        )
        asked = adalora_loss if VARIANTS[variant].adaptive else label_loss
        history = fit(model, batches, loss=asked, **training(model, VARIANTS[variant], rate))
        tried, loss = judged(model, task, validation["text"], validation["intent"])
        trials.append(
            {
                "learning_rate": rate,
                "validation": tried.value,
                "validation_loss": round(loss, 4),
                "losses": [round(value, 4) for value in history.losses],
                "training_seconds": history.seconds,
            }
        )
        if best is None or (tried.value, -loss) > best[:2]:
            best = tried.value, -loss, rate, model
    tested, loss = judged(best[3], task, test["text"], test["intent"])
    trained = sum(p.numel() for p in best[3].parameters() if p.requires_grad)
    return {
        "score": tested,
        "test_loss": round(loss, 4),
        "trials": trials,
        "learning_rate": best[2],
        "trainable": trained,
        "ranks": ranks(best[3]) if VARIANTS[variant].adaptive else {},
    }


# --- on digits -------------------------------------------------------------------------------------------------------

# The same departures from plain LoRA for the three layers of a vision transformer, 32 wide: rank 4 in the place of 8,
# 32 in that of 64, one layer in that of ten. The ranks of the first three again make for an equal number of parameters.
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
DIGIT_VARIANTS = {
    "LoRA": Variant(MATRICES, r=4),
    "queries, values": Variant(["q_proj", "v_proj"], r=14),
    "attention": Variant(MATRICES[:4], r=7),
    "feed-forward": Variant(MATRICES[4:], r=9),
    "first layer": Variant(MATRICES, r=4, layers=range(1)),
    "middle layer": Variant(MATRICES, r=4, layers=range(1, 2)),
    "last layer": Variant(MATRICES, r=4, layers=range(2, 3)),
    "tied": Variant(MATRICES, r=4, tied=True),
    "A frozen": Variant(MATRICES, r=4, layer=LoRAFALinear),
    "dropout": Variant(MATRICES, r=4, layer=functools.partial(DropoutLoRALinear, p=0.1)),
    "alpha = r": Variant(MATRICES, r=4, alpha=4),
    "alpha = 8 r": Variant(MATRICES, r=4, alpha=32),
    "LoRA+, ratio 4": Variant(MATRICES, r=4, ratio=4),
    "LoRA+, ratio 16": Variant(MATRICES, r=4, ratio=16),
    "rank 32, alpha 8": Variant(MATRICES, r=32, alpha=8),
    "rsLoRA, rank 32": Variant(MATRICES, r=32, alpha=8, layer=RsLoRALinear),
    "DoRA": Variant(MATRICES, r=4, layer=DoRALinear),
}
HELD_OUT = 300  # training digits on which rates are chosen


@functools.cache
def _upright() -> VisionTransformer:
    """A network of upright digits: what every variant starts from."""
    seed_everything(0)
    model = VisionTransformer()
    fit(model, image_batches(digits("train"), 300), learning_rate=3e-3, loss=image_loss, warmup=20)
    return model


@experiment(right_answers=_test_digits)
def variant_on_digits(variant: str, learning_rates: list[float], seed: int, steps: int, batch_size: int) -> dict:
    """One of DIGIT_VARIANTS: a network of upright digits learns lying ones at each rate; the better one is tested."""
    lying, trials, best = turned(digits("train")), [], None
    train, held_out = (Images(lying.x[rows], lying.y[rows]) for rows in (slice(HELD_OUT, None), slice(HELD_OUT)))
    for rate in learning_rates:
        model = copy.deepcopy(_upright())
        seed_everything(seed)
        model = adapted(model, DIGIT_VARIANTS[variant], steps)
        history = fit(
            model,
            image_batches(train, steps, batch_size, seed),
            loss=image_loss,
            **training(model, DIGIT_VARIANTS[variant], rate),
        )
        model.eval()
        loss = image_loss(model, held_out).item()
        tried = {"learning_rate": rate, "validation": score(model, held_out).value, "validation_loss": loss}
        trials.append(tried | {"losses": [round(value, 4) for value in history.losses[-10:]]})
        if best is None or (tried["validation"], -loss) > best[:2]:
            best = tried["validation"], -loss, rate, model
    return {
        "score": score(best[3], turned(digits("test"))),
        "corpus": "digits",
        "trials": trials,
        "learning_rate": best[2],
        "trainable": sum(p.numel() for p in best[3].parameters() if p.requires_grad),
    }


# --- which runs are recorded -----------------------------------------------------------------------------------------

RATES = [1e-3, 3e-3]
TRAINING = {"steps": 40, "batch_size": 8, "longest": 120}
ON_TICKETS = (
    "LoRA",
    "queries, values",
    "last ten layers",
    "tied",
    "LoRA+, ratio 16",
    "rsLoRA, rank 64",
    "DoRA",
    "AdaLoRA",
)  # a variant takes two minutes
DIGIT_RATES = [3e-3, 1e-2]
DIGIT_TRAINING = {"steps": 150, "batch_size": 64}
DIGIT_SEEDS = (0, 1)


def variant_runs() -> list[Run]:
    """The recorded runs on tickets, seed 0, plain LoRA first."""
    runs = {run.settings["variant"]: run for run in load_runs("variant_of_lora", seed=0, **TRAINING)}
    return [runs[name] for name in ON_TICKETS]


def digit_runs() -> dict[str, list[Run]]:
    """The recorded runs on digits by variant, all seeds, plain LoRA first."""
    return {name: load_runs("variant_on_digits", variant=name, **DIGIT_TRAINING) for name in DIGIT_VARIANTS}


def trials(runs: list[Run]) -> dict[float, float]:
    """The validation accuracy of runs' trials by rate, the mean over their seeds."""
    rates = [trial["learning_rate"] for trial in runs[0].results["trials"]]
    every = [[trial["validation"] for trial in run.results["trials"]] for run in runs]
    return {rate: sum(values) / len(values) for rate, values in zip(rates, zip(*every))}


def record_all() -> None:
    """Record every run that the notebook draws from and that is not there yet."""
    for seed in DIGIT_SEEDS:
        for name in DIGIT_VARIANTS:
            settings = {"learning_rates": DIGIT_RATES, "seed": seed, **DIGIT_TRAINING}
            record("variant_on_digits", variant=name, **settings)
    for name in ON_TICKETS:
        record("variant_of_lora", variant=name, learning_rates=RATES, seed=0, **TRAINING)
