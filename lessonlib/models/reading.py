"""The two ends of a model where they are done by hand: a text's tokens, and the logits of a last hidden state.

A person's text is only text: the letters "<eos>" in it are letters. And what a model does behind its head (Gemma 2 caps
its logits, Granite divides them) belongs to its logits, also where the head is called for a few places alone.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def text_tokens(tokenizer, texts: Sequence[str], begin: Sequence[int] | None = None) -> list[list[int]]:
    """The tokens of each text, behind those with which this tokenizer begins every text (Gemma's and Llama's <bos>), once.

    Nothing in a text becomes a control token, and none is put behind it. begin: other tokens to begin with.

    >>> text_tokens(tokenizer, ["Where is my <eos> parcel?"])  # doctest: +SKIP
    """
    if not texts:
        return []
    first = first_tokens(tokenizer) if begin is None else list(begin)
    rows = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True).input_ids
    return [first + row for row in rows]


def first_tokens(tokenizer) -> list[int]:
    """The tokens that this tokenizer itself puts in front of every text; for many there are none."""
    bare, whole = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    places = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[: next(places, 0)]


def takes_masks(model: nn.Module) -> bool:
    """Whether each layer attends to all before it, under whatever mask it is given: texts may then share a row."""
    layers = DynamicCache(config=model.config).layers
    full = all(type(layer) is DynamicLayer for layer in layers)
    return full and model.config._attn_implementation in ("eager", "sdpa")


def head_logits(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """What the model's own forward makes of its decoder's last hidden states, (..., D) -> (..., V): its logits.

    For any causal model of transformers, PEFT's included: its forward runs with these states in its decoder's place.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    place = getattr(model, "base_model_prefix", "")
    if place not in model._modules:
        return model.get_output_embeddings()(hidden)
    twin = copy.copy(model)  # over the same modules, but for one
    twin._modules = model._modules | {place: _Decoded(hidden.reshape(1, -1, hidden.shape[-1]))}
    logits = type(model).forward(twin, inputs_embeds=twin._modules[place].states).logits
    return logits.view(*hidden.shape[:-1], -1)


class _Decoded(nn.Module):
    """In a decoder's place: it has read already, and gives the same states whatever it is asked."""

    def __init__(self, states: torch.Tensor):
        super().__init__()
        self.states = states

    @property
    def decoder(self):  # OPT's forward asks its model's decoder
        return self

    def forward(self, *_, **__):
        return _Output((self.states,))


class _Output(tuple):
    """A decoder's output, by place and by name; what it does not have is None."""

    @property
    def last_hidden_state(self) -> torch.Tensor:
        return self[0]

    def __getattr__(self, name):
        return None
