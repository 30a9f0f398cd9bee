"""A tiny random model that vLLM can serve, and adapters of it that differ."""

import torch
from tiny_models import ALL, tiny_model

from lessonlib.lora import add_lora, lora_layers

# vLLM's attention on a CPU knows heads of 32 numbers and more; the real tokenizer has 49,152 tokens.
SHAPE = {"vocab_size": 49152, "hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 1024}
NAMES = ("billing", "refunds", "delivery")


def base_model():
    """The model that is served, in float32."""
    return tiny_model(**SHAPE)


def adapted(seed: int, r: int = 4, **changes):
    """The model with an adapter of random numbers that moves log-probabilities by far more than bfloat16 does."""
    model = add_lora(tiny_model(**(SHAPE | changes)), ALL, r)
    generator = torch.Generator().manual_seed(seed)
    for _, layer in lora_layers(model):
        layer.B.data = 0.3 * torch.randn(layer.B.shape, generator=generator)
    return model
