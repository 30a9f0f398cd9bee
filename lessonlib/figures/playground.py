"""The playground of 08: a real model trains while you watch which of its weights move. Start, stop, go on.

What is drawn while it trains is text (HTML and SVG), so that a redraw takes no time beside a step. A change of the way,
a press on stop: all of that is answered at once, whatever the model is doing; the step under way is finished first.
"""

import html
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from matplotlib.patches import Rectangle
from torch import nn

from lessonlib.adapters import AdapterLayer
from lessonlib.display import Bar, widget_view
from lessonlib.evaluation import tensor_bytes, training_bytes
from lessonlib.lora import LowRank
from lessonlib.prompting.soft_prompts import Prefix, learned
from lessonlib.training import Steps
from lessonlib.training.clock import clock

from .style import INK, VERMILION, Picture

NAMES = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output", "gate_proj": "gate", "up_proj": "up",
    "down_proj": "down",
}  # fmt: skip
ADDED = ("adapter 1", "adapter 2", "prefix", "norms")
IN_FRONT = "in front"  # of all layers: embeddings, or a learned prompt
FAINTEST, STRONGEST = 1e-4, 1.0  # relative movement at which a cell begins to be lit, and is lit in full


# --- what moves ------------------------------------------------------------------------------------------------------


class Watch:
    """How far each part that trains has moved since the watch began, by (layer, kind); layer None is in front of all.

    A weight: the norm of its change over its own. LoRA: the norm of (alpha / r) B A over that of the matrix beside it.

    >>> watch = Watch(model)  # doctest: +SKIP
    >>> watch.moved()[0, "query"]  # doctest: +SKIP
    0.0
    """

    def __init__(self, model: nn.Module):
        self.parts = dict(_parts(model))

    def moved(self) -> dict[tuple[int | None, str], float]:
        with torch.no_grad():
            return {key: part() for key, part in self.parts.items()}


def _parts(model: nn.Module) -> Iterator[tuple[tuple[int | None, str], Callable]]:
    front, decoder = learned(model), model.get_decoder()
    if isinstance(front, Prefix):
        for i in range(len(front.K)):
            yield (i, "prefix"), _change([front.K.detach()[i], front.V.detach()[i]])
    elif front:
        yield (None, IN_FRONT), _change([p.detach() for p in front.parameters()])
    embeddings = model.get_input_embeddings().weight
    if embeddings.requires_grad:
        yield (None, IN_FRONT), _change([embeddings.detach()])
    for i, layer in enumerate((decoder.base if front else decoder).layers):
        for kind, part in _layer_parts(layer):
            yield (i, kind), part


def _layer_parts(layer: nn.Module) -> Iterator[tuple[str, Callable]]:
    adapters = [part.adapter for part in layer.modules() if isinstance(part, AdapterLayer)]
    for number, adapter in enumerate(adapters, 1):
        yield f"adapter {number}", _change([p.detach() for p in adapter.parameters()])
    inside = {id(module) for adapter in adapters for module in adapter.modules()}
    others = []
    for path, module in layer.named_modules():
        own = [p.detach() for p in module.parameters(recurse=False) if p.requires_grad]
        if isinstance(module, LowRank):
            yield _kind(path), _update(module)
        elif isinstance(module, nn.Linear) and own and id(module) not in inside:
            yield _kind(path), _change(own)
        elif id(module) not in inside:
            others += own
    if others:
        yield "norms", _change(others)


def _kind(path: str) -> str:
    name = path.rpartition(".")[2]
    return NAMES.get(name, name)


def _change(tensors: Sequence[torch.Tensor]) -> Callable:
    start = [tensor.clone() for tensor in tensors]
    size = math.hypot(*(tensor.float().norm().item() for tensor in start)) or 1.0
    return lambda: math.hypot(*((t - s).float().norm().item() for t, s in zip(tensors, start))) / size


def _update(layer) -> Callable:
    size = layer.base.weight.float().norm().item()

    def moved():
        # The norm of B A from two products of r x r, without the wide matrix.
        square = ((layer.B.T @ layer.B) * (layer.A @ layer.A.T)).sum().item()
        return abs(layer.scale) * math.sqrt(max(square, 0.0)) / size

    return moved


# --- what is seen ----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the picture is drawn from; no model is asked."""

    way: str
    steps: int
    layers: int
    kinds: tuple[str, ...]
    losses: list[float] = field(default_factory=list)
    moved: dict = field(default_factory=dict)
    trainable: int = 0
    held: int = 0  # bytes of weights, gradients and optimizer states
    seconds: float = 0.0  # of a step
    training: bool = False

    @property
    def rows(self) -> tuple[str, ...]:
        return (IN_FRONT, *self.kinds, *ADDED)

    def strength(self, layer: int | None, kind: str) -> float | None:
        """How brightly a cell is lit, 0 to 1 on a logarithmic scale; None where nothing trains."""
        if (layer, kind) not in self.moved:
            return None
        value = max(self.moved[layer, kind], 1e-12)
        place = math.log(value / FAINTEST) / math.log(STRONGEST / FAINTEST)
        return min(max(place, 0.0), 1.0)

    def cells(self) -> Iterator[tuple[int, int, float | None]]:
        """(row, column, strength) of each cell."""
        for row, kind in enumerate(self.rows):
            for layer in [None] if kind == IN_FRONT else range(self.layers):
                yield row, layer or 0, self.strength(layer, kind)

    def sentence(self) -> str:
        if not self.losses:
            return f"{self.way}: not begun, step 0 of {self.steps}."
        lit = sum(bool(strength) for *_, strength in self.cells())
        most = max(self.moved, key=self.moved.get)
        where = "in front of the layers" if most[0] is None else f"{most[1]} of layer {most[0] + 1}"
        return (
            f"{self.way}: step {len(self.losses)} of {self.steps}, loss {self.losses[-1]:.2f}, first {self.losses[0]:.2f}; "
            f"{self.trainable:,} parameters train, {self.held / 1e6:,.0f} MB are held; {lit} parts have moved, the "
            f"farthest is {where}, by {100 * self.moved[most]:.2g} per cent of its size."
        )


def _colour(strength: float | None) -> str:
    """Light grey where nothing trains; from white to dark blue where something does."""
    if strength is None:
        return "#E4E4E4"
    ends = (255, 255, 255), (0, 60, 120)
    return "#" + "".join(f"{round(a + (b - a) * strength):02X}" for a, b in zip(*ends))


def as_html(seen: Seen) -> str:
    """The lit layers, the loss and the meters, as HTML."""
    size, left = 15, 78
    parts = []
    for row, kind in enumerate(seen.rows):
        parts.append(f'<text x="0" y="{row * size + 11}" font-size="11">{kind}</text>')
    for row, column, strength in seen.cells():
        parts.append(
            f'<rect x="{left + column * size}" y="{row * size}" width="{size - 2}" height="{size - 2}" '
            f'fill="{_colour(strength)}" stroke="{INK if strength is not None else "none"}" stroke-width="0.5"/>'
        )
    width, height = left + seen.layers * size, len(seen.rows) * size + 16
    parts.append(f'<text x="{left}" y="{height - 3}" font-size="11">layer 1 to {seen.layers}, left to right</text>')
    grid = f'<svg aria-hidden="true" width="{width}" height="{height}">{"".join(parts)}</svg>'
    description = html.escape(seen.sentence())
    both = f'<div style="display:flex;flex-wrap:wrap;gap:16px">{grid}{_loss_svg(seen)}</div>'
    return f'<div role="img" aria-label="{description}">{both}<p>{_meters(seen)}</p></div>'


def _loss_svg(seen: Seen, width: int = 320, height: int = 200) -> str:
    top = max([*seen.losses, 1e-9]) * 1.05
    xs = [30 + (width - 40) * (i + 0.5) / max(seen.steps, 1) for i in range(len(seen.losses))]
    ys = [height - 20 - (height - 30) * loss / top for loss in seen.losses]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys))
    axes = f'<path d="M30,5 V{height - 20} H{width - 10}" fill="none" stroke="{INK}"/>'
    words = (
        f'<text x="34" y="14" font-size="11">loss, at most {top / 1.05:.2f}</text>'
        f'<text x="{width - 10}" y="{height - 6}" font-size="11" text-anchor="end">step {seen.steps}</text>'
    )
    curve = f'<polyline points="{line}" fill="none" stroke="{VERMILION}" stroke-width="2"/>'
    return f'<svg aria-hidden="true" width="{width}" height="{height}">{axes}{words}{curve}</svg>'


def _meters(seen: Seen) -> str:
    state = "training" if seen.training else "at rest"
    loss = f"loss <b>{seen.losses[-1]:.2f}</b>" if seen.losses else "loss –"
    return " · ".join(
        [
            f"<b>{html.escape(seen.way)}</b>, {state}", f"step <b>{len(seen.losses)}</b> of {seen.steps}", loss,
            f"<b>{seen.trainable:,}</b> parameters train" if seen.losses else "parameters –",
            f"<b>{seen.held / 1e6:,.0f} MB</b> held, activations apart" if seen.losses else "bytes –",
            f"<b>{seen.seconds:.2f} s</b> a step" if seen.losses else "time –",
        ]
    )  # fmt: skip


def draw_playground(axes, seen: Seen) -> str:
    """The same as a still: which parts have moved, by layer and kind, and the loss."""
    left, right = axes
    for row, column, strength in seen.cells():
        edge = INK if strength is not None else "none"
        left.add_patch(Rectangle((column, row), 0.9, 0.9, facecolor=_colour(strength), edgecolor=edge, linewidth=0.5))
    left.set(xlim=(-0.3, seen.layers + 0.2), ylim=(len(seen.rows) + 0.1, -0.3), xlabel="layer")
    left.set_yticks([row + 0.45 for row in range(len(seen.rows))], seen.rows, fontsize=9)
    ticks = [1, *range(5, seen.layers + 1, 5)]
    left.set_xticks([n - 0.55 for n in ticks], [str(n) for n in ticks])
    left.grid(visible=False)
    left.set_title(f"{seen.way}: what has moved, darker is farther", fontsize=11)
    right.plot(range(1, len(seen.losses) + 1), seen.losses, color=VERMILION)
    right.set(xlabel="step", ylabel="loss, nats", xlim=(0, seen.steps + 1), ylim=(0, None))
    right.set_title(f"Step {len(seen.losses)} of {seen.steps}", fontsize=11)
    return f"Squares by layer and kind of weight, darker where it has moved farther, and the loss by step. {seen.sentence()}"


# --- the playground --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How to train: what to put into the model, the learning rate, what moves the weights."""

    build: Callable
    rate: float
    optimizer: Callable = torch.optim.AdamW


@dataclass
class _Trial:
    """One way on one fresh model, which is loaded at the first step."""

    way: Way
    seen: Seen
    model: nn.Module | None = None
    watch: Watch | None = None
    steps: Steps | None = None

    @property
    def done(self) -> bool:
        return self.steps is not None and self.steps.done

    def begin(self, load_base: Callable, batches: Sequence) -> None:
        self.model, tokenizer = load_base()
        self.way.build(self.model, tokenizer)
        self.watch = Watch(self.model)
        rate, optimizer = self.way.rate, self.way.optimizer
        self.steps = Steps(self.model.train(), batches, learning_rate=rate, optimizer=optimizer)
        self.seen.trainable = sum(p.numel() for p in self.steps.parameters)

    def step(self) -> None:
        began = clock()
        self.steps.step()
        spent, first = clock() - began, not self.seen.losses
        self.seen.seconds = spent if first else 0.8 * self.seen.seconds + 0.2 * spent
        self.seen.losses, self.seen.moved = list(self.steps.losses), self.watch.moved()
        if first:  # the gradients, as many bytes as what trains, have just been dropped
            held = training_bytes(self.model, self.steps.optimizer)
            self.seen.held = sum(held.values()) + tensor_bytes(self.steps.parameters)


class Playground:
    """A way to train, a fresh model, and buttons. `run` does without a hand what the start button does.

    load_base() gives a fresh (model, tokenizer). ways: a `Way` by name. batches: one a step.
    """

    def __init__(self, load_base: Callable, ways: dict[str, Way], batches: Sequence):
        self.load_base, self.ways, self.batches = load_base, ways, batches
        layers = load_base()[0].get_decoder().layers
        kinds = tuple(_kind(path) for path, m in layers[0].named_modules() if isinstance(m, nn.Linear))
        self._blank = {"steps": len(batches), "layers": len(layers), "kinds": kinds}
        self._one_step, self._switch = threading.Lock(), threading.Lock()
        self.thread_name = f"playground {id(self)}"
        self._go, self._thread, self._panel = False, None, None
        self.choose(next(iter(ways)))

    @property
    def seen(self) -> Seen:
        return self.trial.seen

    @property
    def model(self) -> nn.Module | None:
        """The model that trains; None before its first step."""
        return self.trial.model

    def choose(self, way: str) -> None:
        """Take another way, from the beginning; whatever trains stops after its step."""
        self._go = False
        self.trial = _Trial(self.ways[way], Seen(way, **self._blank))
        self._show()

    def step(self) -> None:
        """One training step, and what it has moved."""
        with self._one_step:
            trial = self.trial  # another may be chosen meanwhile
            if trial.steps is None:
                trial.begin(self.load_base, self.batches)
            if not trial.done:
                trial.step()
        self._show()

    def run(self, way: str | None = None, steps: int | None = None) -> "Playground":
        """Train here and now, with a bar: as many steps, or all that are left."""
        if way is not None:
            self.choose(way)
        left = len(self.batches) - len(self.seen.losses)
        bar = Bar(total=min(left if steps is None else steps, left), desc=f"Training, {self.seen.way}")
        for _ in range(bar.total):
            self.step()
            bar.update()
        bar.finish(self.seen.sentence())
        return self

    def start(self, _=None) -> None:
        """Train in the background until stopped or done; after a stop it goes on where it stood."""
        with self._switch:
            self._go = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._train, name=self.thread_name, daemon=True)
                self._thread.start()
        self.seen.training = True
        self._show()

    def _train(self) -> None:
        while True:
            with self._switch:
                if not self._go or self.trial.done:
                    self._go, self.seen.training = False, False
                    self._show()  # before another thread may train and draw
                    self._thread = None
                    return
            self.step()

    def stop(self, _=None) -> None:
        """Stop after the step that is under way."""
        self._go = False

    # --- widgets ---

    def box(self):
        """The controls above the picture, in core ipywidgets."""
        import ipywidgets as widgets

        self._panel = widgets.HTML(as_html(self.seen))
        chooser = widgets.Dropdown(options=list(self.ways), value=self.seen.way, description="way")
        chooser.observe(lambda change: self.choose(change["new"]), names="value")
        buttons = []
        for name, act in (
            ("start", self.start),
            ("stop", self.stop),
            ("anew", lambda _: self.choose(self.seen.way)),
        ):
            buttons.append(widgets.Button(description=name))
            buttons[-1].on_click(act)
        controls = widgets.HBox([chooser, *buttons], layout={"flex_flow": "row wrap"})
        return widgets.VBox([controls, self._panel])

    def _show(self) -> None:
        if self._panel is not None:
            self._panel.value = as_html(self.seen)

    def still(self) -> Picture:
        """What is seen now, as a picture."""
        return Picture(draw_playground, self.seen, size=(11, 3.7), columns=2, dpi=80)

    def _repr_mimebundle_(self, include=None, exclude=None):
        data, metadata = self.still()._repr_mimebundle_()
        return widget_view(self.box()) | data, metadata


def playground(load_base: Callable, ways: dict[str, Way], batches: Sequence) -> Playground:
    """Choose a way, start, stop, go on: the real model trains, and what moves lights up by layer and kind."""
    return Playground(load_base, ways, batches)
