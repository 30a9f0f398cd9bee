"""The rules of CUDA as lines of Python, each with what it raises or what it gives; run by a process of its own.

x is a tensor (3, 4) of the device, c one of the CPU, one and two the same numbers without dimensions.
"""

import json
import sys

# Refused, each with a part of the message.
REFUSED = {
    "adding a tensor of the CPU": ("x + c", "at least two devices"),
    "adding in place": ("x.add_(c)", "at least two devices"),
    "where": ("torch.where(x > 0, x, c)", "at least two devices"),
    "a product": ("x @ c.T", "at least two devices"),
    "a layer of the CPU": ("torch.nn.Linear(4, 2)(x)", "at least two devices"),
    "a number in a product": ("torch.cat([x.flatten(), c[0, 0].reshape(1)])", "at least two devices"),
    "gathering": ("x.gather(1, torch.zeros(3, 1, dtype=int))", "at least two devices"),
    "gathering by a number": ("x.flatten().gather(0, torch.tensor(0))", "at least two devices"),
    "selecting": ("x.index_select(0, torch.tensor([0]))", "at least two devices"),
    "selecting from the CPU": ("c.index_select(0, torch.tensor([0], device=device))", "at least two devices"),
    "a table of words on the CPU": (
        "torch.nn.functional.embedding(torch.tensor([0], device=device), c)",
        "at least two devices",
    ),
    "words on the CPU": ("torch.nn.functional.embedding(torch.tensor([0]), x)", "at least two devices"),
    "targets on the CPU": ("torch.nn.functional.cross_entropy(x, torch.tensor([0, 1, 2]))", "at least two devices"),
    "comparing": ("torch.equal(x, c)", "at least two devices"),
    "comparing nearly": ("torch.allclose(x, c)", "at least two devices"),
    "an index of the device into the CPU": ("c[torch.tensor([0], device=device)]", "indices should be either on cpu"),
    "a mask of the device over the CPU": ("c[x > 0]", "indices should be either on cpu"),
    "values of the CPU put by index": ("x.index_put_((torch.tensor([0]),), c[:1])", "expected all values to be on"),
    "setting by index from the CPU": ("x.__setitem__(torch.tensor([0]), c[:1])", "expected all values to be on"),
    "setting the CPU's by index": ("c.__setitem__(torch.tensor([0]), x[:1])", "expected all values to be on cpu"),
    "writing into the CPU": ("c.add_(x)", "at least two devices"),
    "writing a number into one of the CPU": ("two.add_(one)", "would write numbers of pretended:0"),
    "adding a number of the device to the CPU's": ("c + one", "at least two devices"),
    "numpy": ("x.numpy()", "can't convert pretended:0 device type tensor to numpy"),
    "numpy of what trains": ("x.detach().numpy()", "can't convert pretended:0"),
    "an array": ("np.asarray(x)", "can't convert pretended:0"),
    "an array of numbers": ("np.array([one, one])", "can't convert pretended:0"),
    "a function of numpy": ("np.log(x)", "can't convert pretended:0"),
    "a plot": ("Figure().subplots().plot(x[0])", "can't convert pretended:0"),
    "drawing with a generator of the CPU": (
        "torch.randn(3, device=device, generator=torch.Generator())",
        "for generator but found 'cpu'",
    ),
    "filling with a generator of the CPU": (
        "x.normal_(generator=torch.Generator())",
        "for generator but found 'cpu'",
    ),
    "choosing with a generator of the CPU": (
        "torch.multinomial(x.abs(), 1, generator=torch.Generator())",
        "for generator but found 'cpu'",
    ),
    "a fused step that counts on the CPU": (
        "adamw([x], [x], [x.clone()], [x.clone()], [], [torch.zeros(())], fused=True, amsgrad=False,"
        " beta1=0.9, beta2=0.99, lr=0.1, weight_decay=0.0, eps=1e-8, maximize=False)",
        "illegal memory access",
    ),
    "unscaling float16 gradients of float16 weights": ("unscale(torch.float16)", "Attempting to unscale FP16"),
    "data of the CPU": ("setattr(x, 'data', c)", "cannot become the data"),
}

# Allowed, each with what it gives.
ALLOWED = {
    "where a tensor lies": ("(x.device.type, str(x.device), x.is_cpu)", "('pretended', 'pretended:0', False)"),
    "adding a number of the CPU": ("(x + torch.tensor(1.0)).device.type", "'pretended'"),
    "adding the other way round": ("(torch.tensor(1.0) + x).device.type", "'pretended'"),
    "the numbers are real": ("((x @ x.T).cpu() - c @ c.T).abs().max().item() < 1e-5", "True"),
    "copying into the CPU": ("torch.equal(torch.zeros(3, 4).copy_(x), c)", "True"),
    "copying into a part of the CPU's": ("[t := torch.zeros(4), t.__setitem__(slice(2), x[0, :2])] and t[3].item()", "0.0"),
    "an index of the CPU into the device": ("x[torch.tensor([0])].device.type", "'pretended'"),
    "a number put by index": ("x.index_put_((torch.tensor([0]),), torch.tensor(0.0))[0].sum().item()", "0.0"),
    "a list of numbers": ("x.tolist() == c.tolist()", "True"),
    "one number": ("(float(one), int(one), bool(one), f'{one:.1f}')", "(1.0, 1, True, '1.0')"),
    "numpy of a copy": ("type(x.cpu().numpy()).__name__", "'ndarray'"),
    "a parameter": ("[type(p) for p in torch.nn.Linear(4, 2).to(device).parameters()] == [DeviceTensor] * 2", "True"),
    "it stays a parameter": ("isinstance(torch.nn.Linear(4, 2).to(device).weight, torch.nn.Parameter)", "True"),
    "and back": ("torch.nn.Linear(4, 2).to(device).cpu().weight.device.type", "'cpu'"),
    "a deep copy is another": ("[m := torch.nn.Linear(4, 2).to(device), d := copy.deepcopy(m), d.weight.data.zero_()] and bool(m.weight.any())", "True"),
    "a view shares its numbers": ("[t := x.clone(), t[0].zero_()] and t[0].sum().item()", "0.0"),
    "gradients": ("gradient(device) == gradient('cpu')", "True"),
    "fused attention": ("attention(device) < 1e-6", "True"),
    "a fused step": (
        "[p := torch.nn.Parameter(x.clone()), o := torch.optim.AdamW([p], fused=True), p.sum().backward(), o.step()]"
        " and o.state[p]['step'].device.type",
        "'pretended'",
    ),
    "an optimizer as torch has it": (
        "[p := torch.nn.Parameter(x.clone()), o := torch.optim.AdamW([p]), p.sum().backward(), o.step()] and p.device.type",
        "'pretended'",
    ),
    "unscaling float32 gradients": ("unscale(torch.float32)", "True"),
    "dropout": ("torch.nn.functional.dropout(x, 0.5).device.type", "'pretended'"),
    "waiting": ("[torch.get_device_module(device).synchronize()] and torch.get_device_module(device).waited > 0", "True"),
}  # fmt: skip


def evaluate() -> dict[str, str]:
    """What each line gives, or the error that it raises, by name."""
    import copy

    import numpy as np
    import pretended
    import torch
    from matplotlib.figure import Figure
    from pretended import DeviceTensor
    from torch.optim.adamw import adamw

    device = pretended.install()

    def gradient(where):
        x = torch.linspace(-1, 1, 12, device=where).reshape(3, 4).requires_grad_()
        (x.tanh() @ x.T).softmax(-1).log().sum().backward()
        return x.grad.tolist()

    def attention(where):
        torch.manual_seed(0)
        q, k, v = torch.randn(3, 1, 2, 5, 8)
        fused = torch.nn.functional.scaled_dot_product_attention
        there = fused(*(one.to(where) for one in (q, k, v)), is_causal=True).cpu()
        return (there - fused(q, k, v, is_causal=True)).abs().max().item()

    def unscale(dtype):
        weight = torch.nn.Parameter(torch.ones(3, device=device, dtype=dtype))
        scaler, optimizer = torch.amp.GradScaler(device.type), torch.optim.SGD([weight], lr=0.1)
        scaler.scale(weight.sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        return abs(weight[0].item() - 0.9) < 1e-6

    found = {}
    for name, (line, _) in (REFUSED | ALLOWED).items():
        torch.manual_seed(0)
        c = torch.randn(3, 4)
        names = {"x": c.to(device), "c": c, "one": torch.tensor(1.0, device=device), "two": torch.tensor(2.0)}
        names |= {"torch": torch, "np": np, "copy": copy, "Figure": Figure, "DeviceTensor": DeviceTensor}
        names |= {"device": device, "adamw": adamw, "gradient": gradient, "attention": attention, "unscale": unscale}
        try:
            found[name] = repr(eval(line, names))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    json.dump(evaluate(), sys.stdout)
