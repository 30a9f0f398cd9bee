"""Bytes, FLOPs, hours and money of an adaptation, for any architecture.

architecture.py counts a model on the meta device, methods.py what a method trains of it, activations.py what a step
keeps for its backward pass, memory.py and compute.py add it all up, and plans.py says what fits a GPU.
"""

from .activations import Activations, activations, block_parts, head_parts
from .architecture import Architecture, ArchitectureError, architecture, count_parameters, meta_model
from .compute import Compute, dollars, hours, training_compute
from .memory import (
    EIGHT_BIT_ADAM,
    FLOAT32,
    MASTER_WEIGHTS,
    MIXED,
    PRECISIONS,
    PURE_BFLOAT16,
    Memory,
    Precision,
    checkpoint_bytes,
    training_memory,
)
from .methods import Adapters, FullFineTuning, LoRA, MethodError, PrefixTuning, PromptTuning, QLoRA
from .plans import Fit, Plan, fits, smaller

__all__ = [
    "EIGHT_BIT_ADAM", "FLOAT32", "MASTER_WEIGHTS", "MIXED", "PRECISIONS", "PURE_BFLOAT16",
    "Activations", "Adapters", "Architecture", "ArchitectureError", "Compute", "Fit", "FullFineTuning", "LoRA",
    "Memory", "MethodError", "Plan", "Precision", "PrefixTuning", "PromptTuning", "QLoRA",
    "activations", "architecture", "block_parts", "checkpoint_bytes", "count_parameters", "dollars", "fits",
    "head_parts", "hours", "meta_model", "smaller", "training_compute", "training_memory",
]  # fmt: skip
