"""A small vision transformer for digits of 8 × 8 pixels (Dosovitskiy et al., 2021, arXiv:2010.11929, section 3.1).

    z = [x_class; x_1 E; …; x_N E] + E_pos      x_i a patch of P × P pixels,  N = 64 / P^2 of them
    z = z + attention(norm(z))                  every place sees every other: nothing here comes after something else
    z = z + mlp(norm(z))                        the last two, once a layer
    y = head(norm(z_class))                     y (n, 10)

Its linear layers have the names of the language model's, so `add_lora(model, ["q_proj", "v_proj"])` puts the same
LoRALinear around them: what low-rank adaptation needs is a matrix, not a language.
"""

import torch
from torch import nn
from torch.nn import functional as F

from lessonlib.corpora.digits import Images

SIDE = 8


class Attention(nn.Module):
    """Each place asks all places, in several heads.

    z (n, N, D) -> (n, N, D)
    """

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, z):
        parts = self.q_proj(z), self.k_proj(z), self.v_proj(z)
        # each (n, heads, N, D / heads)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention, and then a small network for each place.

    z (n, N, D) -> (n, N, D)
    """

    def __init__(self, width, heads):
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up_proj, self.down_proj = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, z):
        z = z + self.attention(self.norm_attention(z))
        return z + self.down_proj(F.gelu(self.up_proj(self.norm_mlp(z))))


class VisionTransformer(nn.Module):
    """An image cut into patches, each a token, and a token of its own to answer with.

    x (n, 64), pixels row by row -> (n, 10)

    patch: the side of a patch in pixels. Raises ValueError where it does not divide the 8 of an image.

    >>> VisionTransformer()(torch.rand(3, 64)).shape
    torch.Size([3, 10])
    """

    def __init__(self, width=32, layers=3, heads=4, patch=2):
        super().__init__()
        if SIDE % patch:
            raise ValueError(f"patch is {patch}; it must divide the {SIDE} pixels of a side")
        self.patch = patch
        self.embed = nn.Linear(patch * patch, width)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position_embedding = nn.Parameter(0.02 * torch.randn((SIDE // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*[Layer(width, heads) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x):
        z = self.embed(patches(x, self.patch))  # (n, N, D)
        z = torch.cat([self.class_token.expand(len(z), -1, -1), z], 1)  # (n, 1 + N, D)
        return self.head(self.layers(z + self.position_embedding)[:, 0])


def patches(x: torch.Tensor, side: int) -> torch.Tensor:
    """Images (n, 64) cut into squares, row by row: (n, (8 / side)^2, side^2).

    >>> patches(torch.arange(64.0)[None], 4)[0, 1]
    tensor([ 4.,  5.,  6.,  7., 12., 13., 14., 15., 20., 21., 22., 23., 28., 29.,
            30., 31.])
    """
    squares = x.unflatten(-1, (SIDE // side, side, SIDE // side, side))  # (n, rows, P, columns, P)
    return squares.transpose(2, 3).flatten(3).flatten(1, 2)


def turned(images: Images) -> Images:
    """The same digits lying on their left side: pictures that a network of upright digits was not made for.

    >>> turned(Images(torch.eye(64)[:1], torch.tensor([7]))).x.argmax()  # the first pixel goes down to the last row
    tensor(56)
    """
    squares = images.x.unflatten(-1, (SIDE, SIDE))
    return Images(squares.rot90(1, (-2, -1)).flatten(-2), images.y)


def image_batches(images: Images, steps: int, batch_size: int = 64, seed: int = 0) -> list[Images]:
    """`steps` batches for `training.fit`, epoch after epoch in new orders."""
    draw = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch_size // len(images))
    order = torch.cat([torch.randperm(len(images), generator=draw) for _ in range(epochs)])
    return [Images(images.x[rows], images.y[rows]) for rows in order.split(batch_size)[:steps]]


def image_loss(model: nn.Module, images: Images) -> torch.Tensor:
    """Cross-entropy of the right digit, averaged over the batch."""
    return F.cross_entropy(model(images.x), images.y)
