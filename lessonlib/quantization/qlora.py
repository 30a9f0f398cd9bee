"""QLoRA: the base model in 4 bits by bitsandbytes, LoRA on top (Dettmers et al., 2023, arXiv:2305.14314).

The same code on CPU and GPU: NF4, double quantized; products in bfloat16 where the processor has it, else in float16
on a GPU (a T4) and in float32 on a CPU. `add_lora(model, layer=QLoRALinear)` and PEFT's `get_peft_model` both take the
loaded model. Embeddings, head and norms stay in 16 bits; PEFT's prepare_model_for_kbit_training would make them
float32, which for a small model costs as much as 4 bits save.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from bitsandbytes.optim import PagedAdamW32bit
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from lessonlib.evaluation import tensor_bytes
from lessonlib.lora import LoRALinear, lora_layers, merge_lora
from lessonlib.models import ModelFileError, device_and_dtype, find_base, load_tokenizer
from lessonlib.models.base import refuse_gaps
from lessonlib.models.kinds import causal_config, in_four_bits, quantization, refuse_quantized, refuse_tokens

from .linear import FourBitLinear, FourBitWeight, refuse_what_stays
from .nf4 import QuantizationError, dequantize, double_quantize, quantize

# --- the base in 4 bits ----------------------------------------------------------------------------------------------


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantization, and products in `dtype`: what `from_pretrained(quantization_config=...)` takes."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_four_bit(name: str = "smollm2-135m", dtype: torch.dtype | None = None, source: str | Path | None = None):
    """The base model with its linear layers in NF4, frozen, and its tokenizer.

    name, source: as `load_base` takes them. dtype: of products, embeddings and norms; None takes `hardware.dtype()`.
    A checkpoint that bitsandbytes has in 4 bits already is loaded in the format that it has (NF4 or FP4).
    Returns (model, tokenizer), the model in evaluation mode on this machine's device.
    Raises ModelFileError where a file is missing or damaged, for what is no causal language model, for weights that are
    quantized in another way, and for a model whose weights are in good part no linear layers (experts): those would
    stay as they are.

    >>> model, tokenizer = load_four_bit()  # doctest: +SKIP
    """
    directory, (device, dtype) = find_base(name, source), device_and_dtype(dtype)
    config = causal_config(directory)
    said = quantization(directory, config)
    if said and not in_four_bits(said):
        refuse_quantized(directory, config)
    try:
        _refuse_experts(directory)
        asked = {} if said else {"quantization_config": four_bits(dtype)}  # a None would undo what the file says
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            **asked,
            dtype=dtype,
            device_map=device,
            attn_implementation="eager" if device.type == "cpu" else "sdpa",  # as load_base does
            output_loading_info=True,
        )
        refuse_gaps(info)
        tokenizer = load_tokenizer(directory)
    except (OSError, ValueError, SafetensorError) as cause:
        raise ModelFileError(f"{directory} cannot be loaded ({cause}): a file is missing or damaged") from cause
    refuse_tokens(directory, model, tokenizer)
    for _, linear in four_bit_linears(model):
        linear.compute_dtype = dtype
    return keep_layout(model).requires_grad_(False).eval(), tokenizer


def _refuse_experts(directory: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    try:
        refuse_what_stays(model, (nn.Linear, Conv1D))  # what bitsandbytes replaces
    except QuantizationError as cause:
        raise ModelFileError(f"{directory}: {cause}") from cause


def keep_layout(model: nn.Module) -> nn.Module:
    """Keep bitsandbytes from reordering 4-bit weights on CPUs with AVX512-BF16. Call it once, before any evaluation.

    In evaluation bitsandbytes 0.50.2 turns the weights into another layout there and never back. Training after it
    multiplies without passing a gradient on: adapters on queries and values get none at all, those elsewhere a wrong
    one, with no error and a loss that looks right; and merging reads the bytes as if nothing had happened. On other
    processors and on GPUs this call changes nothing.
    """
    for _, linear in four_bit_linears(model):
        linear.support_avx512bf16_for_cpu = False
    return model


def four_bit_linears(model: nn.Module) -> Iterator[tuple[str, Linear4bit]]:
    """(path, layer) of each of bitsandbytes' 4-bit layers in the model."""
    return ((path, module) for path, module in model.named_modules() if isinstance(module, Linear4bit))


def model_bytes(model: nn.Module) -> int:
    """Bytes of parameters, buffers, and the scales that bitsandbytes keeps beside its weights. Counted."""
    held = [*model.parameters(), *model.buffers()]
    for _, linear in four_bit_linears(model):
        state = linear.weight.quant_state
        for part in (state, state.state2):
            held += [value for value in vars(part or object).values() if torch.is_tensor(value)]
    return tensor_bytes(held)


def adamw_for(device: torch.device):
    """AdamW whose states move to the machine's memory when a GPU's is full (the paper's section 3), where it exists.

    On a CPU there is nothing to move to, and this is torch's AdamW. bitsandbytes pages the states of matrices with at
    least 100,000 values; those of small adapters stay on the GPU.
    """
    return torch.optim.AdamW if device.type == "cpu" else PagedAdamW32bit


def paged_adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
    """The optimizer for `fit(optimizer=paged_adamw)`: paged on a GPU, plain on a CPU."""
    parameters = list(parameters)
    return adamw_for(parameters[0].device)(parameters, lr=lr, weight_decay=weight_decay)


# --- LoRA on top, and merging ----------------------------------------------------------------------------------------


def dense_weight(linear: nn.Linear) -> torch.Tensor:
    """The weight as it is computed with, (d_out, d_in): of bitsandbytes' layer, of ours, or of a plain one."""
    if isinstance(linear, Linear4bit):
        return dequantize_4bit(linear.weight.data, linear.weight.quant_state)
    return linear.dense_weight() if isinstance(linear, FourBitWeight) else linear.weight


class QLoRALinear(LoRALinear):
    """LoRA over a linear layer in 4 bits, bitsandbytes' or ours.

    x (..., d_in) -> (..., d_out)
    """

    @torch.no_grad()
    def merged(self):
        """A plain linear layer, in 16 bits again: the 4-bit weight written out, plus scale * B A."""
        W = dense_weight(self.base)
        linear = nn.Linear(self.base.in_features, self.base.out_features, bias=False, device=W.device, dtype=W.dtype)
        linear.weight.copy_(W.float() + self.scale * self.B @ self.A)
        linear.bias = self.base.bias
        return linear.requires_grad_(False)


def merge_into_four_bits(model: nn.Module) -> nn.Module:
    """Merge each QLoRALinear, and round the sum to NF4 again: as small as the base was, but not what was trained.

    An update is often smaller than the step between two codes, so much of it is lost (`update_lost` says how much).
    Serve the adapter unmerged, or merge into 16 bits (`merge_lora`), where the answers matter.
    `unmerge_lora` takes it back. Raises LoRAError as `merge_lora` does.
    """
    merge_lora(model)
    for path, layer in list(lora_layers(model)):
        rounded = FourBitLinear(model.get_submodule(path))
        vars(rounded)["unmerged"] = layer  # where unmerge_lora looks for it
        model.set_submodule(path, rounded)
    return model


@torch.no_grad()
def update_lost(layer: LoRALinear) -> float:
    """The error of merging into 4 bits over the size of the update, both as root mean squares.

    0 is nothing lost; at 1 the error is as large as all that was learned. Raises ValueError for an update of zero.
    """
    update = layer.scale * layer.B @ layer.A
    if not update.any():
        raise ValueError("the update is zero: train the adapter first, there is nothing to lose")
    merged = dense_weight(layer.base).float() + update
    rounded = dequantize(double_quantize(quantize(merged)))
    return ((rounded - merged).norm() / update.norm()).item()
