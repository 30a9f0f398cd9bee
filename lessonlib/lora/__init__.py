"""LoRA: a low-rank update beside frozen matrices, and its files in PEFT's format."""

from .files import CONFIG, PLAIN_STARTS, PREFIX, UNDERSTOOD, WEIGHTS, load_lora, save_lora
from .layer import (
    LoRAError,
    LoRALinear,
    LowRank,
    add_lora,
    beside_A_and_B,
    linear_names,
    lora_layers,
    merge_lora,
    remove_lora,
    unmerge_lora,
)
