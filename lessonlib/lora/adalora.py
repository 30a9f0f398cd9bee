"""AdaLoRA (Zhang et al., 2023, arXiv:2303.10512) through PEFT's own class: the rank goes where it is needed.

    h = W x + (alpha / r_0) P diag(E) Q x        P (d_out, r_0), E (r_0,), Q (r_0, d_in), all trained

All matrices begin with rank r_0. During training the triplets that matter least, over all matrices together, have
their E set to zero until r remain for each matrix on average. P and Q are kept near orthogonal by a term of the loss.
PEFT calls them lora_B, lora_E and lora_A.

PEFT adds that term and asks for the pruning in a loop of its own; here the term is in `adalora_loss` and the pruning
in the optimizer, so that `training.fit` trains it like anything else.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from lessonlib.training.labels import label_loss

ADAPTER = "default"


def add_adalora(
    model: nn.Module,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    *,
    steps: int,
    r: int = 8,
    start_r: int = 12,
    alpha: float = 16.0,
) -> nn.Module:
    """PEFT's AdaLoRA on the target modules: a fifth of the steps at the full rank, two fifths pruning, two at the end.

    r: the rank that is left on average. start_r: the rank of each matrix at first. steps: of the whole training.
    Returns PEFT's model around the given one. Raises ValueError where r is not below start_r.
    """
    from peft import AdaLoraConfig, get_peft_model

    if not 1 <= r < start_r:
        raise ValueError(
            f"r is {r} and start_r {start_r}: the rank to be left must be at least 1 and the smaller one"
        )
    schedule = {"total_step": steps, "tinit": steps // 5, "tfinal": 2 * steps // 5, "deltaT": 1}
    config = AdaLoraConfig(
        target_modules=list(targets),
        init_r=start_r,
        target_r=r,
        lora_alpha=alpha,
        task_type="CAUSAL_LM",
        **schedule,
    )
    return get_peft_model(model, config)


def orthogonality(model: nn.Module) -> torch.Tensor:
    """How far P^T P and Q Q^T are from the identity: the mean Frobenius norm (section 3.1 of the paper)."""
    distances = []
    for layer in _layers(model).values():
        P, Q = layer.lora_B[ADAPTER], layer.lora_A[ADAPTER]
        identity = torch.eye(len(Q), device=Q.device)
        distances += [torch.linalg.norm(P.T @ P - identity), torch.linalg.norm(Q @ Q.T - identity)]
    return torch.stack(distances).mean()


def adalora_loss(model: nn.Module, batch) -> torch.Tensor:
    """`label_loss` with the orthogonality that PEFT's configuration weighs."""
    return label_loss(model, batch) + model.peft_config[ADAPTER].orth_reg_weight * orthogonality(model)


def adalora_optimizer(model: nn.Module) -> Callable:
    """What `training.fit` takes as `optimizer`: AdamW that lets PEFT prune behind each step.

    Do not resume such a run: PEFT's running scores of importance are not in the checkpoint.

    >>> fit(model, batches, learning_rate=2e-3, loss=adalora_loss, optimizer=adalora_optimizer(model))  # doctest: +SKIP
    """
    return functools.partial(_pruning, model)


def _pruning(model, parameters, *, lr: float, weight_decay: float = 0.0):
    engine = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)

    def prune(engine, *_):
        step = int(next(iter(engine.state.values()))["step"])  # 1 behind the first
        model.base_model.update_and_allocate(step)

    engine.register_step_post_hook(prune)
    return engine


def ranks(model: nn.Module) -> dict[str, int]:
    """The rank that each matrix has left, by its path in the base model."""
    return {path: int((layer.lora_E[ADAPTER] != 0).sum()) for path, layer in _layers(model).items()}


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    named = model.base_model.model.named_modules()
    return {path: module for path, module in named if ADAPTER in getattr(module, "lora_E", ())}
