"""A small transformer, and the two tasks that it learns from nothing in a minute.

    h = embed(x) + position        x (B, T) tokens or (B, T, n) vectors,  h (B, T, D)
    h = h + attention(norm(h))     each place sees itself and those before it
    h = h + mlp(norm(h))           the last two, once a layer
    y = head(norm(h))              y (B, T, outputs)

In-context regression (Garg et al., 2022, arXiv:2208.01066, section 3): the prompt is a list of points of a linear
function that the network has never seen, and it is to give the function's next value.

Chained arithmetic: a number and a list of steps, each modulo ten. The network is taught to write the results of all
steps, or the last one alone, or the last one behind as many dots (the "variable compute" of Wei et al., 2022,
arXiv:2201.11903, section 3.3).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """One layer: attention to the places up to one's own, then a small network for each place.

    h (B, T, D) -> (B, T, D)
    """

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h):
        qkv = self.queries_keys_values(self.norm_attention(h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(seen.transpose(1, 2).flatten(2))
        return h + self.mlp(self.norm_mlp(h))


class SmallTransformer(nn.Module):
    """A decoder-only transformer: what stands at a place depends on that place and on those before it.

    x (B, T) or (B, T, n) -> (B, T, outputs)

    embed: what turns x into vectors: an nn.Embedding for tokens, an nn.Linear for numbers.
    longest: the largest T.
    """

    def __init__(self, embed, outputs, width=64, layers=3, heads=4, longest=64):
        super().__init__()
        self.embed, self.position_embedding = embed, nn.Parameter(0.02 * torch.randn(longest, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, x):
        return self.head(self.blocks(self.embed(x) + self.position_embedding[: x.shape[1]]))


# --- in-context regression ----------------------------------------------------------------------------------


@dataclass
class LinearFunctions:
    """n linear functions, each with its examples: x (n, K, d) and y (n, K), noise included. Row k of an answer may
    use the examples before k, and x of k."""

    x: torch.Tensor
    y: torch.Tensor

    def to(self, device) -> "LinearFunctions":
        return LinearFunctions(self.x.to(device), self.y.to(device))

    @property
    def prompt(self) -> torch.Tensor:
        """(n, 2 K, d + 1): x_1, y_1, x_2, y_2, …, each a vector; the last entry is y's, and 0 where x stands."""
        x, y = F.pad(self.x, (0, 1)), F.pad(self.y[..., None], (self.x.shape[-1], 0))
        return torch.stack([x, y], 2).flatten(1, 2)


def linear_functions(n: int, d: int, examples: int, seed: int, noise: float = 0.5) -> LinearFunctions:
    """y = w x + noise, with w, x and the noise drawn from normal distributions (of deviation 1, 1 and `noise`).

    >>> linear_functions(n=3, d=4, examples=9, seed=0).prompt.shape
    torch.Size([3, 18, 5])
    """
    _refuse_small(n=n, d=d, examples=examples)
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, d, 1, generator=generator)
    x = torch.randn(n, examples, d, generator=generator)
    return LinearFunctions(x, (x @ w)[..., 0] + noise * torch.randn(n, examples, generator=generator))


def in_context(model: SmallTransformer, functions: LinearFunctions) -> torch.Tensor:
    """The network's values, (n, K): at each x, from the examples before it."""
    return model(functions.prompt)[:, ::2, 0]


def regression_loss(model: SmallTransformer, functions: LinearFunctions) -> torch.Tensor:
    """The mean squared error over all places of all functions."""
    return F.mse_loss(in_context(model, functions), functions.y)


def least_squares(functions: LinearFunctions) -> torch.Tensor:
    """Values of the line through the examples before each x, (n, K): the shortest w where several fit."""
    return _fitted(functions, lambda x, y: torch.linalg.pinv(x) @ y)


def ridge(functions: LinearFunctions, penalty: float) -> torch.Tensor:
    """Values by ridge regression, (n, K). With the noise's variance as penalty no method has a smaller mean error,
    since w is drawn from a normal distribution of deviation 1."""
    eye = torch.eye(functions.x.shape[-1], device=functions.x.device)
    return _fitted(functions, lambda x, y: torch.linalg.solve(x.mT @ x + penalty * eye, x.mT @ y))


def _fitted(functions: LinearFunctions, fit) -> torch.Tensor:
    x, y = functions.x, functions.y[..., None]
    values = [torch.zeros_like(y[:, 0, 0])]  # before any example: w = 0
    for k in range(1, x.shape[1]):
        w = fit(x[:, :k], y[:, :k])  # (n, d, 1)
        values.append((x[:, k, None] @ w)[:, 0, 0])
    return torch.stack(values, 1)


# --- chained arithmetic -------------------------------------------------------------------------------------

SIGNS = "+-×"
EQUALS, DOT = 40, 41
VOCABULARY = [*"0123456789", *(f"{sign}{digit}" for sign in SIGNS for digit in range(10)), "=", "."]


@dataclass
class Chains:
    """n problems: question (n, steps + 2), as tokens of VOCABULARY; results (n, steps), digits, one behind each step."""

    question: torch.Tensor
    results: torch.Tensor


def chained_arithmetic(n: int, steps: int, seed: int) -> Chains:
    """A digit and `steps` steps (+, - or × a digit), worked from left to right and modulo ten.

    >>> problems = chained_arithmetic(1, steps=3, seed=0)
    >>> spell(problems.question[0]), spell(problems.results[0])
    ('4 +3 ×9 +7 =', '7 3 0')
    """
    _refuse_small(n=n, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    begin = torch.randint(10, (n, 1), generator=generator)
    sign = torch.randint(len(SIGNS), (n, steps), generator=generator)
    digit = torch.randint(10, (n, steps), generator=generator)
    results = [begin]
    for i in range(steps):
        old, new = results[-1], digit[:, i, None]
        each = torch.cat([old + new, old - new, old * new], 1) % 10  # (n, 3), one a sign
        results.append(each.gather(1, sign[:, i, None]))
    question = torch.cat([begin, 10 + 10 * sign + digit, torch.full((n, 1), EQUALS)], 1)
    return Chains(question, torch.cat(results[1:], 1))


def spell(tokens) -> str:
    """Tokens as text."""
    return " ".join(VOCABULARY[token] for token in tokens)


@dataclass
class Targets:
    """What a network reads and what it is to write behind it: given (n, T), wanted (n, t)."""

    given: torch.Tensor
    wanted: torch.Tensor

    def to(self, device) -> "Targets":
        return Targets(self.given.to(device), self.wanted.to(device))


def with_chain(chains: Chains) -> Targets:
    """Write the results of all steps; the last is the answer."""
    return Targets(chains.question, chains.results)


def answer_only(chains: Chains) -> Targets:
    """Write the answer at once."""
    return Targets(chains.question, chains.results[:, -1:])


def filler_dots(chains: Chains) -> Targets:
    """Write the answer behind as many dots as a chain has results before it: the same length, nothing said."""
    dots = torch.full_like(chains.results[:, 1:], DOT)
    return Targets(torch.cat([chains.question, dots], 1), chains.results[:, -1:])


def arithmetician(width: int = 96, **settings) -> SmallTransformer:
    """A transformer for `chained_arithmetic`."""
    embed = nn.Embedding(len(VOCABULARY), width)
    nn.init.normal_(embed.weight, std=0.02)  # as small as the positions: torch's own start would drown them
    return SmallTransformer(embed, len(VOCABULARY), width, **settings)


def target_loss(model: SmallTransformer, targets: Targets) -> torch.Tensor:
    """Cross-entropy of what is wanted, each token given those before it."""
    tokens = torch.cat([targets.given, targets.wanted], 1)
    logits = model(tokens[:, :-1])[:, targets.given.shape[1] - 1 :]  # (n, t, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.wanted.flatten())


@torch.no_grad()
def write_on(model: SmallTransformer, targets: Targets) -> torch.Tensor:
    """What the network writes by itself, (n, t): the likeliest token each time, read again for the next."""
    tokens = targets.given
    for _ in range(targets.wanted.shape[1]):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    return tokens[:, targets.given.shape[1] :]


def share_right(model: SmallTransformer, targets: Targets) -> float:
    """The share of problems whose last written token is the answer."""
    return (write_on(model, targets)[:, -1] == targets.wanted[:, -1]).float().mean().item()


def _refuse_small(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} = {size}: give at least 1")
