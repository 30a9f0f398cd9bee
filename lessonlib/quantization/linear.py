"""A linear layer whose weight stays in 4 bits, to train LoRA on top of (Dettmers et al., 2023, section 3, "QLoRA").

    y = x dequantize(q)^T        q is NF4, double quantized; it never trains

W in full exists only while it is multiplied with, once in the forward and once more in the backward pass.
"""

import torch
from torch import nn

from lessonlib.lora import LowRank

from .nf4 import DoubleQuantized, QuantizationError, dequantize, double_quantize, quantize


class Product(torch.autograd.Function):
    """x W^T with W = dequantize(q): the gradient reaches x, and W is made anew for it instead of being kept."""

    @staticmethod
    def forward(ctx, x, q):
        ctx.q = q
        return x @ dequantize(q).to(x.dtype).T

    @staticmethod
    def backward(ctx, grad):
        return grad @ dequantize(ctx.q).to(grad.dtype), None


class FourBitWeight(nn.Linear):
    """A frozen linear layer's weight, kept in NF4, double quantized; what is computed with it, a subclass says.

    linear: the layer to take over; its bias is kept as it is. Raises QuantizationError as `quantize` does.
    `weight` holds the packed codes, (d_out * d_in / 2,) uint8. `add_lora` takes the layer like any linear one.
    """

    def __init__(self, linear: nn.Linear, block_size: int = 64):
        nn.Module.__init__(self)
        q = double_quantize(quantize(linear.weight, block_size))
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype, self.block_size = q.dtype, block_size
        self.weight = nn.Parameter(q.codes, requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.data, requires_grad=False)
        self.register_buffer("absmax", q.absmax)
        # Kept as whole numbers: model.to(torch.bfloat16) would round them otherwise.
        self.register_buffer("second", q.second.view(torch.int32))
        self.register_buffer("offset", q.offset.view(torch.int32))

    @property
    def quantized(self) -> DoubleQuantized:
        """The weight as `double_quantize` returned it."""
        second, offset = self.second.view(torch.float32), self.offset.view(torch.float32)
        shape = torch.Size((self.out_features, self.in_features))
        return DoubleQuantized(self.weight.data, self.absmax, shape, self.dtype, self.block_size, second, offset)

    def dense_weight(self) -> torch.Tensor:
        """W as it is computed with, (d_out, d_in)."""
        return dequantize(self.quantized)


class FourBitLinear(FourBitWeight):
    """A frozen linear layer with its weight in NF4, double quantized.

    x (..., d_in) -> (..., d_out)

    >>> layer = FourBitLinear(nn.Linear(64, 32))
    >>> layer(torch.ones(2, 64)).shape, layer.weight.numel()
    (torch.Size([2, 32]), 1024)
    """

    def forward(self, x):
        y = Product.apply(x, self.quantized)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def to_four_bits(model: nn.Module, block_size: int = 64, layer=FourBitLinear) -> nn.Module:
    """Put a FourBitLinear in the place of each linear layer; embeddings, head, norms and convolutions stay as they are.

    layer: the class to build, FourBitLinear or one of your own on FourBitWeight.

    Returns the same model; LoRA may be on it already, or be added then.
    Raises QuantizationError, and leaves the model as it was, where no plain linear layer is found, where a weight
    cannot be quantized, and where a good part of the model is no linear layer (experts): it would not be in 4 bits.

    >>> to_four_bits(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))[0]
    FourBitLinear(in_features=64, out_features=64, bias=True)
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    chosen = [(path, m) for path, m in model.named_modules() if type(m) is nn.Linear and m is not head]
    if not chosen:
        raise QuantizationError("no plain nn.Linear is left in this model: it is in 4 bits already, or has none")
    refuse_what_stays(model, (nn.Linear,))
    made = []
    for path, linear in chosen:
        try:
            made.append((path, layer(linear, block_size)))
        except QuantizationError as cause:
            raise QuantizationError(f"{path}: {cause}") from cause
    for path, taken_over in made:
        model.set_submodule(path, taken_over)
    return model


STAYS = 0.01  # the share of a model that may stay as it is beside embeddings, head, norms: a router, a gate


def refuse_what_stays(model: nn.Module, layers: tuple[type[nn.Module], ...]) -> None:
    """Raise QuantizationError where much of the model is in matrices that no module of these classes holds.

    layers: the classes that are put into 4 bits. Experts are such matrices: transformers keeps all of a
    block's in one parameter of three dimensions.
    """
    left, total = {}, 0
    for path, module in model.named_modules():
        for name, p in module.named_parameters(path, recurse=False):
            total += p.numel()
            expected = isinstance(module, (*layers, nn.Embedding, nn.modules.conv._ConvNd, LowRank))
            if p.ndim > 1 and p.is_floating_point() and not expected:
                left[name] = p.numel()
    if (n := sum(left.values())) > STAYS * total:
        raise QuantizationError(
            f"{n:,} of {total:,} weights, {max(left, key=left.get)} among them, are in no linear layer (experts, for "
            "example) and would stay as they are: take a model without experts, or keep this one in 16 bits"
        )
