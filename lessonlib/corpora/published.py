"""What the course looks up: shapes of published models, GPUs, papers. Sources: data/references.md.

An architecture is a `config.json` in the form of transformers; its "architectures" names the class counted:

    config = architecture("llama2-70b")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
"""

import copy
import csv
import difflib
import functools
import json
from dataclasses import dataclass

from .texts import DATA


@dataclass(frozen=True)
class Paper:
    """A paper that the notebooks cite.

    year and month are those of the arXiv number, or of publication where there is none; lesson holds the
    two-digit numbers of the notebooks.
    """

    key: str
    year: int
    month: int
    authors: str
    title: str
    venue: str
    arxiv: str
    lesson: tuple[str, ...]
    in_one_line: str


def architectures() -> dict[str, dict]:
    """All of data/architectures.json by name.

    An entry holds family, config (as of a `config.json`), parameters (counted on the meta device), published
    (the number as the paper states it), source, and a note where the two differ for a reason.

    >>> architectures()["gpt3-175b"]["parameters"]
    174604259328
    """
    return copy.deepcopy(_read("architectures"))


def architecture(name: str) -> dict:
    """The configuration of a published model, in the form of a transformers `config.json`.

    Raises KeyError for a name that is not in the catalogue, with those nearest to it.

    >>> architecture("llama2-70b")["num_key_value_heads"]
    8
    """
    return copy.deepcopy(_entry("architectures", name)["config"])


def gpus() -> dict[str, dict]:
    """All of data/gpus.json by name.

    An entry holds memory_gb (as sold; read as 1e9 bytes never more than the card has), memory_mib (as the
    driver reports it, 2^20 bytes), bandwidth_gb_s, peak_flops (dense, a second, by dtype: fp32, tf32, fp16,
    bf16, int8, fp8, where the card has it), bfloat16 (in hardware), compute_capability and source.

    >>> sorted(name for name, card in gpus().items() if not card["bfloat16"])
    ['T4', 'V100-32GB']
    """
    return copy.deepcopy(_read("gpus"))


def gpu(name: str) -> dict:
    """One entry of `gpus`.

    Raises KeyError for a name that is not in the catalogue, with those nearest to it.

    >>> gpu("T4")["memory_gb"]
    16
    """
    return copy.deepcopy(_entry("gpus", name))


def papers() -> list[Paper]:
    """The rows of data/papers.csv, the oldest first.

    >>> [paper.title[:4] for paper in papers() if paper.arxiv == "2106.09685"]
    ['LoRA']
    """
    with (DATA / "papers.csv").open(encoding="utf8", newline="") as file:
        return [_paper(row) for row in csv.DictReader(file)]


def _paper(row: dict[str, str]) -> Paper:
    numbers = {"year": int(row["year"]), "month": int(row["month"])}
    return Paper(**row | numbers | {"lesson": tuple(row["lesson"].split())})


@functools.cache
def _read(name: str) -> dict[str, dict]:
    return json.loads((DATA / f"{name}.json").read_text("utf8"))


def _entry(kind: str, name: str) -> dict:
    entries = _read(kind)
    if name not in entries:
        lower = {known.lower(): known for known in entries}
        near = [lower[hit] for hit in difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.5)]
        hint = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(entries)}"
        raise KeyError(f"no {name!r} in data/{kind}.json; {hint}")
    return entries[name]
