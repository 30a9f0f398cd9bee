"""Adapters one on another, for tasks that come one after another; and what the earlier ones then forget.

    h = W x + Σ_{i<t} s_i B_i A_i x + s_t B_t A_t x        only the pair of task t trains

The earlier pairs are frozen, as in O-LoRA (Wang et al., 2023, arXiv:2310.14152), whose penalty that keeps the pairs'
directions apart is left out here. Frozen is not safe: the sum that a text of task 1 gets is another one once task 2 is
learned. Where it is known which task a text belongs to, the first pairs alone give back the model as it was.
"""

from collections.abc import Sequence
from contextlib import contextmanager

from torch import nn

from .deltas import Delta, Deltas, delta_of
from .layer import LoRAError, LowRank, add_lora, lora_layers


class SettledLinear(nn.Linear):
    """A frozen linear layer with the frozen updates of the tasks so far; a linear layer itself, for the next one.

    x (..., d_in) -> (..., d_out)
    """

    def __init__(self, base: nn.Linear, updates: Sequence[Delta]):
        nn.Module.__init__(self)  # no weight is made: it is the base's own
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.below, self.updates = [base], list(updates)  # the base in a list: not a submodule of its own

    def forward(self, x):
        h = self.below[0](x)
        for A, B, scale in self.updates:
            h = h + scale * (x @ A.to(x).T) @ B.to(x).T
        return h


def stack_lora(model: nn.Module, targets=("q_proj", "v_proj"), r: int = 8, alpha: float = 16.0) -> nn.Module:
    """Freeze the task's LoRA layers where they stand and put fresh ones on them, for the next task.

    targets, r, alpha: as for `add_lora`; the targets of all tasks must be the same, r and alpha need not. A model
    without LoRA gets its first layers. Returns the same model. Raises LoRAError as `add_lora` does.

    >>> from lessonlib.lora import add_lora
    >>> model = add_lora(nn.Sequential(nn.Linear(6, 4)), targets=["0"], r=2)
    >>> stack_lora(model, targets=["0"], r=3)[0].A.shape, tasks(model)
    (torch.Size([3, 6]), 2)
    """
    before = _places(model)
    settle(model)
    try:
        add_lora(model, targets, r, alpha)
        _refuse_other_targets(set(before), {path for path, _ in lora_layers(model)})
    except LoRAError:
        _put(model, {path: layer.base for path, layer in lora_layers(model)} | before)
        raise
    return model


def _refuse_other_targets(before: set[str], now: set[str]) -> None:
    if before and (odd := sorted(before ^ now)):
        raise LoRAError(f"{odd[0]} is adapted for one task and not for another: give the same targets")


def settle(model: nn.Module) -> nn.Module:
    """Freeze the LoRA layers into their places: the model computes the same, has no LoRA, and nothing trains.

    A model without LoRA stays as it is. Returns the same model.
    """
    return unstack_lora(model, keep=tasks(model))


def stacked(model: nn.Module) -> list[Deltas]:
    """The adapter of each task in order, the one that still trains last: for a bank, a merge, or a file."""
    pairs = {path: _taken_apart(path, module)[1] for path, module in _places(model).items()}
    depth = max(map(len, pairs.values()), default=0)
    return [{path: updates[task] for path, updates in pairs.items()} for task in range(depth)]


def tasks(model: nn.Module) -> int:
    """How many tasks' adapters stand on one another, the one that still trains included."""
    return len(stacked(model))


def unstack_lora(model: nn.Module, keep: int = 0) -> nn.Module:
    """Take all but the first `keep` tasks' adapters off; with none left the base is what it was, bit for bit."""
    _put(model, _cut(model, keep))
    return model


@contextmanager
def as_after(model: nn.Module, task: int):
    """Inside, the model is what it was when it had learned the first `task` tasks; 0 is the base.

    >>> with as_after(model, 1):  # doctest: +SKIP
    ...     accuracy(model, task_1, texts, targets)
    """
    now, then = _places(model), _cut(model, task)
    _put(model, then)
    try:
        yield model
    finally:
        _put(model, now)


def _places(model: nn.Module) -> dict[str, nn.Module]:
    """What stands where adapters are stacked, by path: LoRA layers, else settled ones."""
    places = {path: m for path, m in model.named_modules() if isinstance(m, SettledLinear)}
    on_top = {path: model.get_submodule(path) for path, _ in lora_layers(model)}
    return {path: m for path, m in places.items() if path.removesuffix(".base") not in on_top} | on_top


def _taken_apart(path: str, module: nn.Module) -> tuple[nn.Module, list[Delta]]:
    """The base's own module, and the updates on it."""
    layer = vars(module).get("unmerged", module)
    if isinstance(layer, SettledLinear):
        return layer.below[0], layer.updates
    if not isinstance(layer, LowRank):
        return layer, []
    base, below = _taken_apart(path, layer.base)
    return base, [*below, delta_of(path, layer)]


def _cut(model: nn.Module, keep: int) -> dict[str, nn.Module]:
    depth = tasks(model)
    if not 0 <= keep <= depth:
        raise LoRAError(f"{keep} tasks' adapters are asked for, this model has {depth}")
    parts = {path: _taken_apart(path, module) for path, module in _places(model).items()}
    return {path: SettledLinear(base, updates[:keep]) if keep else base for path, (base, updates) in parts.items()}


def _put(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    for path, module in modules.items():
        model.set_submodule(path, module)


def forgetting(scores: Sequence[Sequence[float]]) -> list[float]:
    """How far each earlier task's score has fallen below its best, now that the last task is learned.

    scores: row t holds the scores on tasks 0, 1, … t (or more) after task t was learned. Returns one number for each
    task but the last; below zero where later tasks helped. Raises ValueError for a row that is too short. Source:
    Chaudhry et al., 2018, arXiv:1801.10112.

    >>> [round(f, 2) for f in forgetting([[0.9], [0.8, 0.7], [0.6, 0.75, 0.9]])]
    [0.3, -0.05]
    """
    for t, row in enumerate(scores):
        if len(row) <= t:
            raise ValueError(f"row {t} has {len(row)} scores; expected those of tasks 0 to {t}")
    *before, last = scores
    return [max(row[j] for row in before[j:]) - last[j] for j in range(len(before))]
