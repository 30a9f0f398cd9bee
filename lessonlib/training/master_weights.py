"""AdamW with float32 master weights (Micikevicius et al., 2018, arXiv:1710.03740, section 3.1).

A bfloat16 number keeps eight bits of significand: a step below 1/256 of a weight is rounded away, and fine-tuning takes
such steps. So the optimizer keeps each weight a second time, in float32, moves that one, and gives the model a rounded
copy. The forward and backward pass stay in the fast 16 bits.
"""

import torch
from torch.optim.adamw import adamw


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) over float32 copies of the parameters: 12 bytes of state a parameter.

    What `training.fit` takes as `optimizer`, and an argument like any other of torch's. Parameters that are in float32
    already are their own masters; the steps are then torch's AdamW's. Gradients that a `GradScaler` made larger are
    made smaller again in float32; where some are not finite, nothing moves.

    >>> fit(model, batches, learning_rate=1e-4, optimizer=MasterAdamW)  # doctest: +SKIP
    """

    # torch's GradScaler then leaves `grad_scale` and `found_inf` with the optimizer.
    _step_supports_amp_scaling = True

    def __init__(self, params, lr: float = 1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure else None
        if getattr(self, "found_inf", None):
            return loss
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p, group) -> None:
        state = self.state[p]
        if not state:
            master = p.detach().float()
            state |= {"master": master, "m": torch.zeros_like(master), "v": torch.zeros_like(master)}
            state["step"] = torch.zeros((), device=p.device)  # where the fused kernel reads it
        beta1, beta2 = group["betas"]
        rates = {"lr": group["lr"], "eps": group["eps"], "weight_decay": group["weight_decay"]}
        scale = getattr(self, "grad_scale", None)
        gradient = p.grad.float() if scale is None else p.grad.float() / scale
        moved = [[state["master"]], [gradient], [state["m"]], [state["v"]], [], [state["step"]]]
        adamw(*moved, fused=True, beta1=beta1, beta2=beta2, amsgrad=False, maximize=False, **rates)
        p.copy_(state["master"])

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        # torch gives a state the dtype of its parameter, which would round the masters.
        parameters = [p for group in self.param_groups for p in group["params"]]
        for i, state in state_dict["state"].items():
            self.state[parameters[i]] = {
                name: value.to(parameters[i].device, copy=True) for name, value in state.items()
            }
            if parameters[i].dtype == torch.float32:
                self.state[parameters[i]]["master"] = parameters[i].detach()
