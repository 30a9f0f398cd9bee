"""Methods of adaptation, as what they train. Each counts itself on an `Architecture`."""

from collections.abc import Sequence
from dataclasses import dataclass

from .architecture import Architecture


class MethodError(ValueError):
    """A method cannot be counted on this architecture; the message names the value."""


def _positive(name: str, value) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MethodError(f"{name} is {value!r}; expected a whole number of at least 1")


@dataclass(frozen=True)
class FullFineTuning:
    """Every parameter is trained."""

    trains_everything = True

    def trainable(self, model: Architecture) -> int:
        return model.parameters

    def tensors(self, model: Architecture) -> int:
        return model.tensors

    def __str__(self):
        return "full fine-tuning"


@dataclass(frozen=True)
class LoRA:
    """A (r, d_in) and B (d_out, r) beside each target (Hu et al. 2021, section 4.1).

    targets: names of matrices, as `("q_proj", "v_proj")`, or "all-linear" for all of those in the blocks.
    """

    r: int = 8
    targets: Sequence[str] | str = "all-linear"
    trains_everything = False

    def chosen(self, model: Architecture):
        """The architecture's matrices that get an A and a B. Raises MethodError for targets that it does not have."""
        _positive("r", self.r)
        if self.targets == "all-linear":
            return list(model.linears)
        if isinstance(self.targets, str):
            raise MethodError(f"targets is {self.targets!r}; expected 'all-linear' or a list of names")
        names = {linear.name for linear in model.linears}
        if missing := [name for name in self.targets if name not in names]:
            raise MethodError(f"no matrix is called {missing[0]!r}; there are {', '.join(sorted(names))}")
        return [linear for linear in model.linears if linear.name in self.targets]

    def trainable(self, model: Architecture) -> int:
        return sum(self.r * (linear.d_in + linear.d_out) for linear in self.chosen(model))

    def tensors(self, model: Architecture) -> int:
        return 2 * len(self.chosen(model))

    def __str__(self):
        return f"LoRA, r = {self.r}"


@dataclass(frozen=True)
class QLoRA(LoRA):
    """LoRA over a base whose matrices are kept in 4 bits (Dettmers et al. 2023, section 3)."""

    def __str__(self):
        return f"QLoRA, r = {self.r}"


@dataclass(frozen=True)
class Adapters:
    """Two bottlenecks a block, d to m and back, with biases (Houlsby et al. 2019, section 2.1)."""

    m: int = 64
    trains_everything = False

    def trainable(self, model: Architecture) -> int:
        _positive("m", self.m)
        return 2 * model.layers * (2 * model.d * self.m + self.m + model.d)

    def tensors(self, model: Architecture) -> int:
        return 2 * model.layers * 4

    def __str__(self):
        return f"adapters, m = {self.m}"


@dataclass(frozen=True)
class PromptTuning:
    """Learned vectors before the text, one a virtual token (Lester et al. 2021)."""

    tokens: int = 100
    trains_everything = False

    def trainable(self, model: Architecture) -> int:
        _positive("tokens", self.tokens)
        return self.tokens * model.d

    def tensors(self, model: Architecture) -> int:
        return 1

    def __str__(self):
        return f"prompt tuning, {self.tokens} tokens"


@dataclass(frozen=True)
class PrefixTuning:
    """Learned keys and values before the text's own, in every layer (Li and Liang 2021)."""

    tokens: int = 100
    trains_everything = False

    def trainable(self, model: Architecture) -> int:
        _positive("tokens", self.tokens)
        return self.tokens * 2 * model.d_kv * model.layers

    def tensors(self, model: Architecture) -> int:
        return 2  # keys and values, each of all layers

    def __str__(self):
        return f"prefix tuning, {self.tokens} tokens"
