"""What kind of model a directory holds, told from its config.json before a weight is read.

The course reads left to right and asks for the next token. Whatever else a directory may hold is refused here, in words:
transformers itself would list all that it knows, or load it without a word.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cache import ModelFileError
from .surgery import CONFIG, read_object

CURE = "give a causal language model, such as SmolLM2, Qwen2.5 or Llama"
OTHER_TASK = re.compile(r"For(SequenceClassification|TokenClassification|QuestionAnswering|MaskedLM|MultipleChoice)$")
OLDER = ("quantize_config.json", "quant_config.json")  # how GPTQ and AWQ said it before config.json did


def causal_config(directory: Path) -> dict[str, Any]:
    """The configuration of the causal language model in this directory.

    Raises ModelFileError where it cannot be read, and for every other kind: encoders and decoders in one (T5), models
    that read in both directions (BERT), classifiers, kinds that transformers does not know, and a directory with an
    adapter beside the model, which transformers would put on unasked.
    """
    import transformers
    from transformers.models.auto import configuration_auto, modeling_auto

    path = directory / "config.json"
    config = read_object(
        path,
        ModelFileError,
        missing="{path.parent} has no {path.name}: give the directory that save_pretrained wrote",
        damaged="{path} cannot be loaded ({cause}): a file is missing or damaged",
    )
    kind, causal = config.get("model_type"), modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if (directory / CONFIG).exists():
        raise ModelFileError(f"{directory} holds an adapter ({CONFIG}) beside the model: give the base without it")
    if config.get("is_encoder_decoder"):
        raise ModelFileError(f"{directory} holds a {kind}, an encoder with a decoder, which is not causal: {CURE}")
    if kind not in configuration_auto.CONFIG_MAPPING_NAMES:
        why = "needs code of its own, which is not run here" if "auto_map" in config else "is unknown"
        raise ModelFileError(
            f"{directory} holds a model of the type {kind!r}, which {why} (transformers {transformers.__version__}): {CURE}"
        )
    both_ways = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")
    if kind not in causal or both_ways:
        how = "reads in both directions" if both_ways else "does not write texts"
        raise ModelFileError(f"{directory} holds a {kind}, which {how} and is no causal language model: {CURE}")
    for name in filter(OTHER_TASK.search, map(str, config.get("architectures") or ())):
        raise ModelFileError(
            f"{directory} holds a {name}, which was made for another task: {CURE}, its base for example"
        )
    return config


def quantization(directory: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the weights of this directory are quantized already, as its configuration says, or None where they are not."""
    for part in (config, config.get("text_config") or {}):
        if said := part.get("quantization_config"):
            return dict(said)
    older = [name for name in OLDER if (directory / name).exists()]
    return {"quant_method": older[0]} if older else None


def in_four_bits(said: Mapping[str, Any]) -> bool:
    """Whether this is bitsandbytes in 4 bits, kept as bytes: what `load_four_bit` loads as it is."""
    return bool(said.get("load_in_4bit")) and said.get("bnb_4bit_quant_storage") in (None, "uint8")


def refuse_quantized(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelFileError where the weights are quantized already: none of them could be read as what they stand for."""
    if said := quantization(directory, config):
        cure = "give the directory of the original weights; load_four_bit makes 4 bits of those"
        if in_four_bits(said):
            cure = "load it with load_four_bit from lessonlib.quantization.qlora (notebook 09), or give the original weights"
        raise ModelFileError(f"{directory} holds weights that are quantized already ({_named(said)}): {cure}")


def _named(said: Mapping[str, Any]) -> str:
    bits = "".join(f", {n} bits" for n in (4, 8) if said.get(f"load_in_{n}bit"))
    return f"{said.get('quant_method', 'unnamed')}{bits}"


def refuse_tokens(directory: Path, model, tokenizer) -> None:
    """Raise ModelFileError where a token that is put into every batch is beyond the model's embeddings."""
    most = model.get_input_embeddings().num_embeddings
    for name in ("pad_token", "eos_token", "bos_token"):
        if (token := getattr(tokenizer, f"{name}_id")) is not None and token >= most:
            raise ModelFileError(
                f"{directory}: the tokenizer's {name} is token {token}, and the model has {most}, numbered from 0: call "
                "model.resize_token_embeddings(len(tokenizer)) and save both, or take the tokenizer of this model"
            )
