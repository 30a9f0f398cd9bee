"""What an adapter's configuration says of each module: whether it is changed, by which rank, and how it is scaled.

The rules are PEFT's: a key of a pattern is a regular expression for the end of a module's path, and the first that
matches counts; so does the end of a path for each of `target_modules`, where they are a list.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .layer import LoRAError

CHOICE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass(frozen=True)
class Settings:
    """A configuration whose values are what they should be, as `settings` gives it; `file` is where it stands."""

    file: Path
    r: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool
    choice: Mapping[str, Any]

    def rank(self, path: str) -> int:
        """The rank of this module's update. Raises LoRAError for a pattern that is no regular expression."""
        return self._of(self.ranks, path, self.r)

    def scale(self, path: str, r: int) -> float:
        """What B A is multiplied with, at this rank: alpha / r, with rsLoRA (Kalajdzievski, 2023) alpha / sqrt(r).

        Raises LoRAError as `rank` does.
        """
        return self._of(self.alphas, path, self.alpha) / (math.sqrt(r) if self.rslora else r)

    def refuse_other_rank(self, path: str, r: int) -> None:
        """Raise LoRAError where the weights' rank is not the configuration's: they are of two adapters."""
        if r != (said := self.rank(path)):
            raise LoRAError(
                f"{path} has rank {r} in the weights, and {self.file} says {said}: the two files are of different "
                "adapters, save it again"
            )

    def refuse_other_targets(self, found: Iterable[str], modules: Iterable[str], linear: Iterable[str]) -> None:
        """Raise LoRAError where the weights change other modules than the configuration names.

        found: paths that the weights change. modules: all paths of the model. linear: those that "all-linear" means.
        """
        named, found = self._named(modules, linear), set(found)
        cure = "the two files are of different adapters, or the adapter is for another base: save it again"
        if missing := sorted(named - found):
            raise LoRAError(f"{self.file} names {missing[0]}, of which the weights hold nothing: {cure}")
        if extra := sorted(found - named):
            raise LoRAError(f"the weights change {extra[0]}, which {self.file} does not name: {cure}")

    def _named(self, modules: Iterable[str], linear: Iterable[str]) -> set[str]:
        from peft.tuners.tuners_utils import check_target_module_exists

        targets, choice = self.choice["target_modules"], SimpleNamespace(**self.choice, target_parameters=None)
        if isinstance(targets, str) and targets.lower() == "all-linear":
            choice.target_modules = list(linear)
        try:
            return {path for path in modules if check_target_module_exists(choice, path)}
        except Exception as cause:  # PEFT's matching, over values that may be anything JSON can hold
            raise LoRAError(
                f"{self.file} chooses modules in a way that cannot be read ({cause!r}): save the adapter again"
            ) from cause

    def _of(self, pattern: Mapping[str, Any], path: str, otherwise):
        from peft.utils.other import get_pattern_key

        try:
            return pattern.get(get_pattern_key(pattern, path), otherwise)
        except (re.error, RecursionError) as cause:
            raise LoRAError(
                f"{self.file} has a pattern that cannot be read ({cause}): save the adapter again"
            ) from cause


def settings(config: Mapping[str, Any], file: Path) -> Settings:
    """The settings of an adapter_config.json. Raises LoRAError, by name, for what is no rank, scale or choice.

    >>> settings({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}, Path("adapter_config.json")).scale("q_proj", 4)
    2.0
    """
    # PEFT's defaults
    config = {"r": 8, "lora_alpha": 8, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False} | dict(config)
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config[name], dict):
            raise LoRAError(f"{file} sets {name} = {config[name]!r}; expected an object: save the adapter again")
    ranks, alphas = config["rank_pattern"], config["alpha_pattern"]
    for name, value in [("r", config["r"]), *((f"rank_pattern {key}", value) for key, value in ranks.items())]:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise LoRAError(f"{file} sets {name} = {value!r}; expected a whole number of at least 1: save it again")
    for name, value in [
        ("lora_alpha", config["lora_alpha"]),
        *((f"alpha_pattern {k}", v) for k, v in alphas.items()),
    ]:
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
            raise LoRAError(f"{file} sets {name} = {value!r}; expected a finite number: save the adapter again")
    if not isinstance(rslora := config["use_rslora"], bool):
        raise LoRAError(f"{file} sets use_rslora = {rslora!r}; expected true or false: save the adapter again")
    choice = {name: config.get(name) for name in CHOICE}
    if not choice["target_modules"]:
        raise LoRAError(f"{file} names no target_modules, so what it changes is unknown: save the adapter again")
    return Settings(file, config["r"], config["lora_alpha"], ranks, alphas, rslora, choice)
