"""The experiments of notebook 09: a base in several formats of few bits, and LoRA over it in 16 bits and in NF4.

Both train on the shorter tickets, as in notebook 06, and are scored on all test tickets. The same two learning rates are
tried for either, and the validation tickets choose.
`python -m lessonlib.experiments lesson09_qlora` records what is missing; it resumes where it was stopped.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib import corpora
from lessonlib.evaluation import Accuracy, mean_difference
from lessonlib.lora import LoRALinear, add_lora
from lessonlib.models import load_base
from lessonlib.quantization.formats import FORMATS
from lessonlib.quantization.qlora import QLoRALinear, load_four_bit, model_bytes
from lessonlib.runs import Run
from lessonlib.training import fit, seed_everything

from .registry import experiment, record
from .tickets import ALL_LINEAR, scores, short_tickets, test_intents, ticket_task
from .trials import best_rate

FORMAT = {format.name: format for format in FORMATS}
READ = 24  # validation tickets that a base reads for its loss on plain text


def _next_tokens(run: Run) -> list[int]:
    return list(_tokens_that_came())


@functools.cache
def _tokens_that_came() -> tuple[int, ...]:
    return tuple(torch.cat([ids[0, 1:] for ids in _texts(load_base()[1])]).tolist())


def linears(model: nn.Module) -> list[nn.Linear]:
    """The matrices that QLoRA keeps in 4 bits: those in the blocks, not the head."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m is not model.get_output_embeddings()]


@torch.no_grad()
def rounded(model: nn.Module, format) -> nn.Module:
    """The model with each matrix in its blocks replaced by what `format` keeps of it, written out again."""
    for linear in linears(model):
        linear.weight.copy_(format.dequantize(format.quantize(linear.weight)))
    return model


@torch.no_grad()
def read(model: nn.Module, tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of every next token in some tickets, (tokens, V), and which one came, (tokens,)."""
    log_probs, device = [], next(model.parameters()).device
    for ids in _texts(tokenizer):
        log_probs.append(model(ids.to(device), use_cache=False).logits[0, :-1].float().log_softmax(-1))
    return torch.cat(log_probs), torch.cat([ids[0, 1:] for ids in _texts(tokenizer)]).to(device)


def _texts(tokenizer) -> list[torch.Tensor]:
    texts = corpora.tickets("validation")["text"][:READ]
    return [tokenizer(text, return_tensors="pt").input_ids[:, :96] for text in texts]


@experiment(right_answers=_next_tokens)
def base_in(format: str) -> dict:
    """The base with its matrices in this format, untrained, reading tickets as plain text: how often its likeliest next
    token is the one that came, its loss in nats a token, and how far its probabilities are from those of the 16-bit
    model (Kullback-Leibler, nats a token)."""
    model, tokenizer = load_base()
    before, came = read(model, tokenizer)
    after, _ = read(rounded(model, FORMAT[format]), tokenizer)
    return {
        "score": Accuracy(after.argmax(-1).tolist(), came.tolist()),
        "text_loss_before": F.nll_loss(before, came).item(),
        "text_loss": F.nll_loss(after, came).item(),
        "divergence": F.kl_div(after, before, log_target=True, reduction="batchmean").item(),
    }


def _train(model, tokenizer, layer, *, targets, r, seed, learning_rate, steps, batch_size) -> dict:
    seed_everything(seed)  # after the model is loaded: A starts with the same numbers over every base
    add_lora(model, targets, r=r, alpha=2 * r, layer=layer)
    task = ticket_task(tokenizer)
    batches = task.training_batches(*short_tickets(), steps=steps, batch_size=batch_size, seed=seed)
    history = fit(model, batches, learning_rate=learning_rate)
    return scores(model, task) | history.results() | {"bytes": model_bytes(model)}


@experiment(right_answers=test_intents)
def lora_16_bits(**settings) -> dict:
    """LoRA over the base as it is. settings: targets, r, seed, learning_rate, steps, batch_size."""
    return _train(*load_base(), LoRALinear, **settings)


@experiment(right_answers=test_intents)
def qlora(**settings) -> dict:
    """The same LoRA over the base in NF4, double quantized, by bitsandbytes."""
    return _train(*load_four_bit(), QLoRALinear, **settings)


# --- which runs are recorded -----------------------------------------------------------------------------------------

RATES = (1e-3, 3e-3)
SEEDS = (0, 1)
TRAINING = {"r": 8, "steps": 40, "batch_size": 8}
EVERYWHERE = {"targets": ALL_LINEAR, **TRAINING}


def compared(a: list[Run], b: list[Run]) -> tuple[float, float, float]:
    """a's accuracy minus b's, each averaged over its seeds: (difference, low, high), a 95 % bootstrap interval over the
    tickets."""
    return mean_difference([run.answers() for run in a], [run.answers() for run in b])


def record_all() -> None:
    """Record every run that the notebook draws from and that is not there yet."""
    for name in ("lora_16_bits", "qlora"):
        for rate in RATES:
            record(name, learning_rate=rate, seed=0, **EVERYWHERE)
    for format in FORMAT:
        record("base_in", format=format)
    for seed in SEEDS[1:]:
        for name in ("qlora", "lora_16_bits"):
            rate = best_rate(name, **EVERYWHERE)
            record(name, learning_rate=rate, seed=seed, **EVERYWHERE)
