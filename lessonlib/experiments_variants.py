"""The variants of LoRA in notebook 07: where it stands, its scale, its rates, its relatives, on equal terms.

Each variant is trained once for every rate; the rate with the best validation accuracy is kept, and only that model
sees the test tickets. Recorded so far are those in ON_TICKETS. `python -m lessonlib.experiments_variants` records what
is missing; it resumes where it was stopped.
"""

import functools
from dataclasses import dataclass, field

from . import corpora
from .adalora import adalora_loss, adalora_optimizer, add_adalora, ranks
from .classification import label_loss
from .dora import DoRALinear
from .experiments import ALL_LINEAR
from .experiments_adapters import VALIDATION, judged, short_tickets, ticket_task
from .lora import LoRALinear, add_lora
from .lora_dropout import DropoutLoRALinear
from .lora_fa import LoRAFALinear
from .lora_plus import lora_plus
from .models import load_base
from .rslora import RsLoRALinear
from .runs import Run, load_runs, record
from .session import seed_everything
from .tied_lora import tie_lora
from .training import fit

ATTENTION, FEED_FORWARD = ALL_LINEAR[:4], ALL_LINEAR[4:]
LAYERS = 30


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
        if path.rpartition(".")[2] in variant.targets and any(place in f".{path}" for place in inside)
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


# --- which runs are recorded -----------------------------------------------------------------------------------------

MODULE = "lessonlib.experiments_variants"
RATES = [1e-3, 3e-3]
TRAINING = {"steps": 40, "batch_size": 8, "longest": 120}
ON_TICKETS = ("LoRA", "queries, values")  # a variant takes two to five minutes


def variant_runs() -> list[Run]:
    """The recorded runs on tickets, seed 0, plain LoRA first."""
    runs = {run.settings["variant"]: run for run in load_runs("variant_of_lora", seed=0, **TRAINING)}
    return [runs[name] for name in ON_TICKETS]


def targets(run: Run) -> list[int]:
    """The right answers of a recorded run, read anew from the test tickets."""
    return list(corpora.tickets("test")["intent"])


def record_all() -> None:
    """Record every run that the notebook draws from and that is not there yet."""
    for name in ON_TICKETS:
        record(f"{MODULE}:variant_of_lora", variant=name, learning_rates=RATES, seed=0, **TRAINING)


if __name__ == "__main__":
    record_all()
