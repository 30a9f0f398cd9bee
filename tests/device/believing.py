"""lessonlib on the pretended device: it finds a GPU, loads models onto it, and computes there in float16 or bfloat16."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import pretended
import torch
from bitsandbytes import matmul_4bit
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM

DEVICE = pretended.install()


def believe(dtype: str, free_gb: float = 14.6) -> torch.dtype:
    """Let the library find the device, with so much memory free, and this type for the frozen weights; returns that."""
    from lessonlib import hardware
    from lessonlib.quantization import qlora

    hardware.device = lambda: DEVICE
    hardware.dtype = lambda on=None: getattr(torch, dtype)
    hardware.memory_gb = lambda on=None: free_gb
    hardware.peak_memory_gb = lambda on=None: 1.0
    torch.cuda.get_device_name = lambda device=None: "a pretended GPU"
    qlora.PagedAdamW32bit, qlora.AutoModelForCausalLM = PagedAdamW, FourBitModels
    return getattr(torch, dtype)


class FourBitLinear(Linear4bit):
    """bitsandbytes' layer with its codes and scales on the device; its own kind of parameter cannot lie there."""

    def __init__(self, linear: Linear4bit):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else torch.nn.Parameter(linear.bias.data.to(DEVICE), False)
        self.compute_dtype, state = linear.compute_dtype, linear.weight.quant_state
        self.weight = torch.nn.Parameter(torch.empty_like(linear.weight.data, device=DEVICE), requires_grad=False)
        self.weight.copy_(linear.weight.data)
        state.to(DEVICE)
        self.weight.quant_state, self.weight.quant_type = state, linear.weight.quant_type
        self.weight.compress_statistics = linear.weight.compress_statistics  # which PEFT asks for

    def forward(self, x):
        bias, state = (None if self.bias is None else self.bias.to(self.compute_dtype)), self.weight.quant_state
        return matmul_4bit(x.to(self.compute_dtype), self.weight.t(), quant_state=state, bias=bias).to(x.dtype)


class FourBitModels:
    """What `load_four_bit` asks for a model: loaded into four bits on the CPU, and moved."""

    from_config = AutoModelForCausalLM.from_config  # on the meta device, to look at its parts

    @staticmethod
    def from_pretrained(directory, device_map, **settings):
        assert device_map == DEVICE
        model, info = AutoModelForCausalLM.from_pretrained(directory, device_map="cpu", **settings)
        linear = {path: module for path, module in model.named_modules() if isinstance(module, Linear4bit)}
        for path in linear:
            model.set_submodule(path, torch.nn.Identity())
        torch.nn.Module.to(model, DEVICE)
        for path, module in linear.items():
            model.set_submodule(path, FourBitLinear(module))
        return model, info


class PagedAdamW(torch.optim.Optimizer):
    """AdamW with the state that bitsandbytes' paged one has: a whole number for the step, and its two states nested in
    a dictionary where the optimizer is written down."""

    NESTED = "__bnb_optimizer_quant_state__"

    def __init__(self, params, lr=1e-3, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "state1": torch.zeros_like(p), "state2": torch.zeros_like(p)}
                state["step"] += 1
                state["state1"].lerp_(p.grad, 0.1)
                state["state2"].lerp_(p.grad.square(), 0.001)
                mean, square = (
                    state["state1"] / (1 - 0.9 ** state["step"]),
                    state["state2"] / (1 - 0.999 ** state["step"]),
                )
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * mean / (square.sqrt() + 1e-8))

    def state_dict(self):
        written = super().state_dict()
        states = {i: dict(state) for i, state in written["state"].items()}
        for state in states.values():
            state[self.NESTED] = {name: state.pop(name) for name in ("state1", "state2")}
        return {**written, "state": states}

    def load_state_dict(self, state_dict):
        whole = {
            i: {k: v for k, v in state.items() if k != self.NESTED} | state.get(self.NESTED, {})
            for i, state in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": whole})
