"""An architecture counted on torch's meta device: real modules, real shapes, no memory."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
)
from transformers.pytorch_utils import Conv1D

# What no count can do without. Transformers fills a missing one with the default of some other model.
REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
LARGEST = {"hidden_size": 1e6, "num_hidden_layers": 1e4, "num_attention_heads": 1e5, "vocab_size": 1e8}


class ArchitectureError(ValueError):
    """A config.json cannot be counted; the message names the field."""


@dataclass(frozen=True)
class Linear:
    """One matrix of a model: its path, and its shape as the paper writes it, d_out x d_in."""

    path: str
    d_out: int
    d_in: int
    bias: bool

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Architecture:
    """The numbers that costs are computed from, read off the modules themselves.

    d: width of the model; layers: number of blocks (encoder and decoder together); heads: of attention; d_kv: width of keys and values (smaller than
    d where heads share them); d_ff: width of the feed-forward part; gated: three matrices in it instead of two.
    """

    name: str
    parameters: int
    tensors: int
    d: int
    layers: int
    heads: int
    d_q: int
    d_kv: int
    d_ff: int
    vocabulary: int
    gated: bool
    linears: tuple[Linear, ...]  # in the blocks
    head: Linear | None  # from the width to the vocabulary
    norms: int  # parameters in layer norms


def architecture(config) -> Architecture:
    """What costs need to know of a model.

    config: the path of a `config.json`, its content as a dict, a transformers config, or a name in
        data/architectures.json ("llama2-7b").

    Raises ArchitectureError for an unknown architecture, a missing field and a value that cannot be.

    >>> architecture("gpt2").layers
    12
    """
    if isinstance(config, Architecture):
        return config
    content = _content(config)
    return _counted(json.dumps(content, sort_keys=True, default=str))


def count_parameters(config) -> int:
    """All parameters of a model, counted on the meta device; tied ones once.

    >>> count_parameters("smollm2-135m")
    134515008
    """
    return architecture(config).parameters


def meta_model(config) -> nn.Module:
    """The whole model on the meta device: every module and shape, no numbers, no memory."""
    return _built(_content(config))


def _content(config) -> dict:
    if isinstance(config, PretrainedConfig):
        return config.to_dict()
    if isinstance(config, dict):
        return config
    path = Path(config)
    if path.suffix == ".json" or path.exists():
        file = path / "config.json" if path.is_dir() else path
        if not file.exists():
            raise ArchitectureError(f"there is no file {file}; give the path of a config.json")
        try:
            return json.loads(file.read_text("utf8"))
        except ValueError as cause:
            raise ArchitectureError(f"{file} is not JSON ({cause})") from cause
    from lessonlib.corpora.published import architecture as listed

    try:
        return listed(str(config))
    except KeyError as cause:
        raise ArchitectureError(f"{cause.args[0]}; or give the path of a config.json") from None


@functools.lru_cache(64)
def _counted(text: str) -> Architecture:
    content = json.loads(text)
    model = _built(content)
    config = model.config.get_text_config()
    linears = [
        _linear(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    ]
    blocks = tuple(
        linear
        for linear in linears
        if ".layer" in f".{linear.path}" or ".h." in linear.path or ".block." in linear.path
    )
    heads = [linear for linear in linears if linear not in blocks and linear.d_out == config.vocab_size]
    d = config.hidden_size
    d_q, d_kv, d_ff = _widths(blocks, d)
    return Architecture(
        name=content.get("_name_or_path") or content["model_type"],
        parameters=sum(p.numel() for p in model.parameters()),
        tensors=len(list(model.parameters())),
        d=d,
        layers=config.num_hidden_layers + (getattr(config, "num_decoder_layers", None) or 0),
        heads=config.num_attention_heads,
        d_q=d_q,
        d_kv=d_kv,
        d_ff=d_ff,
        vocabulary=config.vocab_size,
        gated=any(linear.name in ("gate_proj", "wi_1") for linear in blocks),
        linears=blocks,
        head=heads[0] if heads else None,
        norms=sum(
            p.numel()
            for m in model.modules()
            if "norm" in type(m).__name__.lower()
            for p in m.parameters(recurse=False)
        ),
    )


def _linear(path: str, module: nn.Module) -> Linear:
    d_in, d_out = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
    return Linear(path, d_out, d_in, module.bias is not None)


def _widths(blocks, d: int) -> tuple[int, int, int]:
    by_name = {linear.name: linear for linear in blocks}
    d_q = next((by_name[n].d_out for n in ("q_proj", "query", "q") if n in by_name), d)
    d_kv = next((by_name[n].d_out for n in ("k_proj", "key", "k") if n in by_name), d)
    d_ff = max((linear.d_out for linear in blocks if linear.name not in ("c_attn",)), default=4 * d)
    return d_q, d_kv, d_ff


def _built(content: dict) -> nn.Module:
    _refuse(content)
    fields = {key: value for key, value in content.items() if key != "model_type"}
    config = AutoConfig.for_model(content["model_type"], **fields)
    if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        family = AutoModelForSeq2SeqLM
    elif config.model_type in ("bert", "roberta"):  # read text, and have no head that predicts the next word
        family = AutoModel
    elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        family = AutoModelForCausalLM
    else:
        family = AutoModel
    with torch.device("meta"):
        return family.from_config(config)


def _refuse(content: dict) -> None:
    kind = content.get("model_type")
    if kind is None:
        raise ArchitectureError("the config has no field 'model_type': it names the architecture, 'llama' for one")
    try:
        cls = type(AutoConfig.for_model(kind))
    except ValueError:
        raise ArchitectureError(f"model_type is {kind!r}, which this version of transformers does not know") from None
    if cls not in MODEL_MAPPING:
        raise ArchitectureError(f"model_type {kind!r} is no language model that can be built from its config")
    if (
        cls.sub_configs and "text_config" in content
    ):  # a model of text and images keeps the text's shape one level down
        content = content["text_config"]
    for field in REQUIRED:
        own = cls.attribute_map.get(field, field)
        value = content.get(own, content.get(field))
        if value is None:
            raise ArchitectureError(f"the config of a {kind!r} model needs the field {own!r}, and it is missing")
        _refuse_number(own, value, LARGEST[field])
    for field in (
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "d_ff",
        "num_key_value_heads",
        "head_dim",
        "d_kv",
    ):
        if content.get(field) is not None:
            _refuse_number(field, content[field], LARGEST["hidden_size"])
    _refuse_heads(cls, content)


def _refuse_number(field: str, value, largest: float) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise ArchitectureError(f"{field} is {value!r}; expected a whole number from 1 to {largest:,.0f}")


def _refuse_heads(cls, content: dict) -> None:
    width, heads = (
        (name := cls.attribute_map.get(field, field), content.get(name, content.get(field)))
        for field in ("hidden_size", "num_attention_heads")
    )
    if width[1] % heads[1] and not (content.get("head_dim") or content.get("d_kv")):
        raise ArchitectureError(f"{heads[0]} is {heads[1]}, which does not divide {width[0]}, {width[1]}")
    shared = content.get("num_key_value_heads") or heads[1]
    if heads[1] % shared:
        raise ArchitectureError(f"num_key_value_heads is {shared}, which does not divide {heads[0]}, {heads[1]}")
