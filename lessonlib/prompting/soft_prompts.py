"""Learned prompts: prompt tuning and prefix tuning, from scratch.

Prompt tuning (Lester et al., 2021, arXiv:2104.08691, section 2) puts p trained vectors before a text's embeddings:

    [P; X]                      P (p, D) trained,  X (T, D) the frozen embeddings of the text

Prefix tuning (Li and Liang, 2021, arXiv:2101.00190, section 4) puts p trained keys and values before the text's own in
the attention of every layer; here they are the parameters themselves, without the network that the paper trains them
through and drops afterwards:

    softmax(q [K; k]^T / sqrt(d)) [V; v]        K, V (p, d) trained for each layer and key-value head

In a causal model all that a text ever reads of a prompt is keys and values, too: those that the model makes of P, the
same for every text. So either fills the key-value cache before the texts come, once a batch. Everything else is
frozen, and the logits are those of the text's tokens; virtual tokens have none.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache

from lessonlib.models.surgery import CONFIG, WEIGHTS, read_object, read_tensors, refuse_not_finite


class SoftPrompt(nn.Module):
    """p trained vectors in front of the embeddings of each text.

    An empty cache for B texts -> the cache with the keys and values that the decoder makes of P.

    P is float32 whatever the model's dtype (small updates vanish in bfloat16) and is cast to it.
    """

    def __init__(self, P):
        super().__init__()
        self.P = nn.Parameter(P)  # (p, D)

    def forward(self, cache, B, decoder):
        P = self.P.to(decoder.dtype)[None]  # (1, p, D): it sees no text, so once is enough for all
        once = decoder(inputs_embeds=P, use_cache=True).past_key_values
        for layer, (K, V, *_) in enumerate(once):  # (1, heads, p, d) each
            cache.update(K.expand(B, -1, -1, -1), V.expand(B, -1, -1, -1), layer)


class Prefix(nn.Module):
    """p trained keys and values in front of those of each text, in every layer and for every key-value head.

    An empty cache for B texts -> the cache with K and V in each layer.

    K and V are float32 whatever the model's dtype, and are cast to it.
    """

    def __init__(self, K, V):
        super().__init__()
        self.K, self.V = nn.Parameter(K), nn.Parameter(V)  # (layers, heads, p, d) each

    def forward(self, cache, B, decoder):
        for layer, (K, V) in enumerate(zip(self.K.to(decoder.dtype), self.V.to(decoder.dtype))):
            cache.update(K.expand(B, -1, -1, -1), V.expand(B, -1, -1, -1), layer)


class SoftPromptError(ValueError):
    """A prompt or prefix cannot be added, removed, saved or loaded; the message says why and what would do."""


# --- where they stand in a model -------------------------------------------------------------------------------------


class _InFront(nn.Module):
    """A decoder with `tokens` virtual tokens in front of every text; its callers know only of the text's own.

    Masks and positions come in for the text and are moved up by the virtual tokens. Once a cache holds something, it
    holds them too, so generation sends only the new token through.
    """

    def __init__(self, base: nn.Module, learned: nn.Module, kind: str, tokens: int):
        super().__init__()
        self.base, self.learned, self.kind, self.tokens = base, learned, kind, tokens

    def get_decoder(self):
        return self

    def get_input_embeddings(self):
        return self.base.get_input_embeddings()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        **rest,
    ):
        if self.training and any(getattr(m, "gradient_checkpointing", False) for m in self.base.modules()):
            raise SoftPromptError(
                f"gradient checkpointing drops the {self.kind}, which stands in the cache: call "
                "model.gradient_checkpointing_disable()"
            )
        text = input_ids if inputs_embeds is None else inputs_embeds
        cache = DynamicCache(config=self.base.config) if past_key_values is None else past_key_values
        if not cache.get_seq_length():
            self.learned(cache, len(text), self.base)
        return self.base(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=cache,
            **self._moved_up(attention_mask, position_ids, text.shape[1]),
            **rest,
        )

    def _moved_up(self, attention_mask, position_ids, size: int) -> dict:
        """Mask and positions of a text's `size` last tokens with the virtual tokens counted in."""
        moved = {}
        if attention_mask is not None:
            # 1 and True let be seen; so does 0 where a mask of four dimensions is added to the scores.
            seen = 1 if attention_mask.dim() == 2 or attention_mask.dtype == torch.bool else 0
            moved["attention_mask"] = F.pad(attention_mask, (self.tokens, 0), value=seen)
        if position_ids is not None:
            moved["position_ids"] = position_ids + self.tokens
        elif attention_mask is not None and attention_mask.dim() == 2:
            # Counted over what is seen: with padding on the left, too, a text begins right behind the prompt.
            moved["position_ids"] = (moved["attention_mask"].cumsum(-1) - 1)[:, -size:].long()
        return moved


def learned(model: nn.Module) -> nn.Module | None:
    """The model's SoftPrompt or Prefix (or your own class in its place), or None.

    >>> learned(nn.Linear(2, 2)) is None
    True
    """
    return next((m.learned for m in model.modules() if isinstance(m, _InFront)), None)


# --- add and remove --------------------------------------------------------------------------------------------------


def add_prompt(model: nn.Module, tokens: int = 16, start=None, module=SoftPrompt) -> nn.Module:
    """Freeze the model and put `tokens` trained vectors in front of every text.

    start: token numbers of a text, whose embeddings are repeated or cut to fill the prompt; or the vectors
        themselves, (tokens, D); None takes the embeddings of random tokens of the vocabulary.
    module: the class that is given the vectors, `module(P)`; your own works if its forward fills an empty cache and it
        keeps them as `P`.

    Returns the same model. Raises SoftPromptError, and leaves the model as it was, for fewer than one token, a start
    that is empty or does not fit, and a model that has a prompt or prefix already.

    >>> model = add_prompt(load_base()[0], 16, tokenizer("Sort this ticket by topic.").input_ids)  # doctest: +SKIP
    """
    _refuse_second(model)
    _refuse_tokens(tokens)
    embeddings = model.get_input_embeddings()
    if start is None:
        start = torch.randint(len(embeddings.weight), (tokens,))
    if not (torch.is_tensor(start) and start.is_floating_point()):
        with torch.no_grad():
            start = embeddings(_filled(start, tokens, model))
    shape = (tokens, embeddings.weight.shape[1])
    _refuse_values("start", start, shape)
    return _put(model, "prompt", module(_parameter(start, embeddings.weight)), tokens)


def add_prefix(model: nn.Module, tokens: int = 16, start=None, module=Prefix) -> nn.Module:
    """Freeze the model and put `tokens` trained keys and values in front of every text, in each layer.

    start: token numbers of a text, repeated or cut to `tokens`: the keys and values that the model itself makes of
        them; or a pair of tensors (K, V), (layers, heads, tokens, d) each; None draws from a standard normal, as PEFT
        does. The paper finds a start from words far better where there is little data (section 7).
    module: the class that is given the two, `module(K, V)`; your own works if its forward fills an empty cache and it
        keeps them as `K` and `V`.

    Returns the same model. Raises SoftPromptError as `add_prompt` does.

    >>> model = add_prefix(load_base()[0], 16, tokenizer("Sort this ticket by topic.").input_ids)  # doctest: +SKIP
    """
    _refuse_second(model)
    _refuse_tokens(tokens)
    shape = _prefix_shape(model, tokens)
    if start is None:
        K, V = torch.randn(2, *shape)
    elif (
        isinstance(start, tuple | list)
        and len(start) == 2
        and all(torch.is_tensor(t) and t.is_floating_point() for t in start)
    ):
        K, V = start
    else:
        K, V = _keys_and_values(model, _filled(start, tokens, model))
    _refuse_values("K", K, shape)
    _refuse_values("V", V, shape)
    weight = model.get_input_embeddings().weight
    return _put(model, "prefix", module(_parameter(K, weight), _parameter(V, weight)), tokens)


def remove_prompt(model: nn.Module) -> nn.Module:
    """Take the prompt away; the base is then what it was, bit for bit. All is frozen still."""
    return _remove(model, "prompt")


def remove_prefix(model: nn.Module) -> nn.Module:
    """Take the prefix away; the base is then what it was, bit for bit. All is frozen still."""
    return _remove(model, "prefix")


def _put(model: nn.Module, kind: str, learned: nn.Module, tokens: int) -> nn.Module:
    decoder = model.get_decoder()
    path = next((path for path, module in model.named_modules() if module is decoder), "")
    if not path:
        raise SoftPromptError(
            f"{type(model).__name__} is a decoder without a head: give the model for causal language modelling"
        )
    model.requires_grad_(False)
    front = _InFront(decoder, learned.train(decoder.training), kind, tokens)
    front.training = decoder.training
    model.set_submodule(path, front)
    return model


def _remove(model: nn.Module, kind: str) -> nn.Module:
    path, found = _find(model, kind)
    model.set_submodule(path, found.base)
    return model


def _find(model: nn.Module, kind: str) -> tuple[str, _InFront]:
    for path, module in model.named_modules():
        if isinstance(module, _InFront) and module.kind == kind:
            return path, module
    raise SoftPromptError(f"this model has no {kind}: call add_{kind}(model, ...) first")


def _refuse_second(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _InFront):
            raise SoftPromptError(
                f"this model has a {module.kind} already: call remove_{module.kind}(model) first, or load a fresh one"
            )


def _refuse_tokens(tokens: int) -> None:
    if not isinstance(tokens, int) or tokens < 1:
        raise SoftPromptError(f"tokens is {tokens!r}; it must be a whole number of at least 1")


def _refuse_values(name: str, values: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(values.shape) != shape:
        raise SoftPromptError(f"{name} has the shape {tuple(values.shape)}; this model needs {shape}")
    refuse_not_finite({name: values}, SoftPromptError, "train again with a smaller learning rate")


def _filled(start, tokens: int, model: nn.Module) -> torch.Tensor:
    """Token numbers, repeated or cut to `tokens`, as PEFT fills a prompt from a text; on the model's device."""
    weight = model.get_input_embeddings().weight
    ids = torch.tensor([]) if isinstance(start, str) else torch.as_tensor(start)
    if ids.dim() != 1 or not len(ids) or ids.is_floating_point():
        raise SoftPromptError(f"start is {start!r}: give the token numbers of one text, tokenizer(text).input_ids")
    if not 0 <= ids.min() <= ids.max() < len(weight):
        raise SoftPromptError(f"start holds {ids.tolist()}; this model's tokens are 0 to {len(weight) - 1}")
    return ids.repeat(math.ceil(tokens / len(ids)))[:tokens].to(weight.device)


def _parameter(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.detach().to(device=like.device, dtype=torch.float32, copy=True).contiguous()


def _prefix_shape(model: nn.Module, tokens: int) -> tuple[int, int, int, int]:
    c = model.config.get_text_config()
    heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    d = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return c.num_hidden_layers, heads, tokens, d


@torch.no_grad()
def _keys_and_values(model: nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    was_training = model.training
    model.eval()
    cache = model.get_decoder()(input_ids=ids[None], use_cache=True).past_key_values
    model.train(was_training)
    pairs = [(keys[0], values[0]) for keys, values, *_ in cache]
    return tuple(torch.stack(side) for side in zip(*pairs))


# --- files, in PEFT's own format -------------------------------------------------------------------------------------

TENSOR = "prompt_embeddings"


def save_prompt(model: nn.Module, directory: str | Path) -> Path:
    """Write the prompt as PEFT does: adapter_config.json and adapter_model.safetensors. Returns the directory.

    Raises SoftPromptError for a model without a prompt and for values that are not finite; nothing is then written.
    """
    from peft import PromptTuningConfig

    _, found = _find(model, "prompt")
    P = found.learned.P
    _refuse_values("P", P, tuple(P.shape))
    heads = model.config.get_text_config().num_attention_heads
    return _write(model, directory, PromptTuningConfig, P, token_dim=P.shape[1], num_attention_heads=heads)


def save_prefix(model: nn.Module, directory: str | Path) -> Path:
    """Write the prefix as PEFT does: adapter_config.json and adapter_model.safetensors. Returns the directory.

    Raises SoftPromptError for a model without a prefix and for values that are not finite; nothing is then written.
    """
    from peft import PrefixTuningConfig

    _, found = _find(model, "prefix")
    K, V = found.learned.K, found.learned.V
    layers, heads, tokens, d = K.shape
    for name, values in (("K", K), ("V", V)):
        _refuse_values(name, values, (layers, heads, tokens, d))
    # PEFT keeps one row a virtual token: layer after layer, the keys of all heads and then their values.
    rows = torch.stack([K, V]).permute(3, 1, 0, 2, 4).reshape(tokens, -1)
    return _write(model, directory, PrefixTuningConfig, rows, token_dim=heads * d, num_attention_heads=heads)


def load_prompt(model: nn.Module, directory: str | Path, module=SoftPrompt) -> nn.Module:
    """Add the prompt that `save_prompt` or PEFT wrote.

    Raises SoftPromptError, and leaves the model as it was, for a missing or damaged file, a prompt of another base
    (shapes that do not fit), values that are not finite, and another method's file.
    """
    P = _read(directory, "PROMPT_TUNING")
    return add_prompt(model, len(P), P, module)


def load_prefix(model: nn.Module, directory: str | Path, module=Prefix) -> nn.Module:
    """Add the prefix that `save_prefix` or PEFT wrote, one trained through PEFT's projection included.

    Raises SoftPromptError as `load_prompt` does.
    """
    rows = _read(directory, "PREFIX_TUNING")
    layers, heads, tokens, d = _prefix_shape(model, len(rows))
    _refuse_values(TENSOR, rows, (tokens, layers * 2 * heads * d))
    K, V = rows.view(tokens, layers, 2, heads, d).permute(2, 1, 3, 0, 4)
    return add_prefix(model, tokens, (K, V), module)


def _write(model, directory: str | Path, kind: type, rows: torch.Tensor, **shape) -> Path:
    config = kind(
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=getattr(model, "name_or_path", None) or None,
        num_virtual_tokens=len(rows),
        num_transformer_submodules=1,
        num_layers=model.config.get_text_config().num_hidden_layers,
        **shape,
    )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file({TENSOR: rows.detach().cpu().contiguous()}, directory / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(directory)
    return directory


def _read(directory: str | Path, kind: str) -> torch.Tensor:
    config = _read_config(Path(directory) / CONFIG)
    if config.get("peft_type") != kind:
        raise SoftPromptError(f"{directory} holds {config.get('peft_type')}, not {kind}: load it with PEFT")
    # An encoder-decoder's prompt stands in two places, and other modules that were trained are not in the prompt.
    for name, plain in (("num_transformer_submodules", (None, 1)), ("modules_to_save", (None, []))):
        if config.get(name) not in plain:
            raise SoftPromptError(
                f"{directory}/{CONFIG} sets {name} = {config[name]!r}, which this library cannot do: load it with PEFT"
            )
    path = Path(directory) / WEIGHTS
    missing = "{path} does not exist: only safetensors are read, .bin files are not"
    tensors, _ = read_tensors(path, SoftPromptError, missing)
    if set(tensors) != {TENSOR} or tensors[TENSOR].dim() != 2:
        raise SoftPromptError(f"{path} holds {sorted(tensors)}, expected one matrix {TENSOR!r}: save it again")
    return tensors[TENSOR].float()


def _read_config(path: Path) -> dict:
    return read_object(
        path,
        SoftPromptError,
        missing="{path} does not exist: give the directory that save_... or PEFT wrote",
        damaged="{path} is not a JSON object ({cause}): it is damaged, save it again",
    )
