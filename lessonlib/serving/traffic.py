"""Traffic for a server of many adapters: who is asked for, how long the answers take, what a cache of adapters hits.

A few customers ask most of the time. If the n-th most frequent adapter is asked for in proportion to 1 / n^s (Zipf's
law), a memory for k adapters that drops the least recently used one still answers most requests:

    share(n) = n^-s / (1^-s + ... + N^-s)        N adapters

and a second server helps twice, if each adapter always goes to the same one: half the work, and half the adapters.
(S-LoRA's authors draw their load by such a power law too: Sheng et al., 2023, arXiv:2311.03285.)
"""

import json
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .engine import Engine

# --- who is asked for ------------------------------------------------------------------------------------------------


def zipf_shares(n_adapters: int, s: float = 1.0) -> np.ndarray:
    """Share of the requests that each adapter gets, the most frequent first, (n_adapters,).

    Raises ValueError for fewer than one adapter or a negative s.

    >>> zipf_shares(3).round(3).tolist()
    [0.545, 0.273, 0.182]
    """
    if n_adapters < 1 or s < 0:
        raise ValueError(f"{n_adapters} adapters, s = {s}: expected at least one adapter and s of 0 or more")
    weights = np.arange(1, n_adapters + 1, dtype=float) ** -s
    return weights / weights.sum()


def zipf(n_adapters: int, requests: int, seed: int, s: float = 1.0) -> list[int]:
    """The adapter that each request asks for: numbers from 0, the most frequent, drawn with Zipf's shares.

    s = 0 asks for all equally often.

    >>> zipf(5, 8, seed=0)
    [1, 0, 0, 0, 3, 4, 1, 2]
    """
    drawn = np.random.default_rng(seed).choice(n_adapters, size=requests, p=zipf_shares(n_adapters, s))
    return drawn.tolist()


# --- what a cache of adapters hits -----------------------------------------------------------------------------------


def lru_hits(trace: Sequence[Hashable], k: int) -> list[bool]:
    """For each request whether its adapter was among the k that were used last; the memory begins empty.

    Raises ValueError for a memory for fewer than one.

    >>> lru_hits(["a", "b", "a", "c", "b"], k=2)
    [False, False, True, False, False]
    """
    if k < 1:
        raise ValueError(f"a memory for {k} adapters: expected at least 1")
    held, hits = OrderedDict(), []
    for name in trace:
        hits.append(name in held)
        held[name] = True
        held.move_to_end(name)
        if len(held) > k:
            held.popitem(last=False)
    return hits


def hit_rate(trace: Sequence[Hashable], k: int) -> float:
    """Share of the requests that find their adapter in a memory of k.

    >>> hit_rate(["a", "b", "a", "c", "b"], k=2)
    0.2
    """
    return float(np.mean(lru_hits(trace, k)))


def in_turns(trace: Sequence[Hashable], replicas: int) -> list[list]:
    """The requests that each replica gets where they are dealt out in turns, whatever they ask for."""
    return [list(trace[i::replicas]) for i in range(replicas)]


def by_adapter(trace: Sequence[Hashable], replicas: int) -> list[list]:
    """The requests that each replica gets where each adapter has its replica (adapter affinity).

    The adapters are given out from the most frequent down, each to the replica with the fewest requests so far.
    """
    load, home = [0] * replicas, {}
    for name, count in Counter(trace).most_common():
        home[name] = load.index(min(load))
        load[home[name]] += count
    return [[name for name in trace if home[name] == i] for i in range(replicas)]


@dataclass(frozen=True)
class Replicas:
    """What several servers with a memory for k adapters each would do with a trace.

    >>> replicas(["a", "b", "a", "b", "a", "b"], k=1, of=by_adapter)
    hits 0.67 with 2 replicas (3 + 3 requests)
    """

    hit_rate: float
    requests: list[int]

    def __repr__(self):
        count = "1 replica" if len(self.requests) == 1 else f"{len(self.requests)} replicas"
        return f"hits {self.hit_rate:.2f} with {count} ({' + '.join(map(str, self.requests))} requests)"


def replicas(trace: Sequence[Hashable], k: int, n: int = 2, of: Callable = by_adapter) -> Replicas:
    """Hit rate and requests of n replicas that share a trace by `of`: `by_adapter` or `in_turns`."""
    parts = of(trace, n)
    hits = sum(sum(lru_hits(part, k)) for part in parts)
    return Replicas(hits / len(trace), [len(part) for part in parts])


class WatchedEngine(Engine):
    """An Engine whose log says when an adapter is read from its files, and when it takes a place of the batch.

    >>> with WatchedEngine(find_base(), adapters, max_loras=2, max_cpu_loras=4) as engine:  # doctest: +SKIP
    ...     before = engine.swaps()
    ...     load = offer(engine.complete, requests, clients=1)
    ...     engine.swaps() - before
    Counter({'placed': 40, 'read': 21})
    """

    def environment(self) -> dict[str, str]:
        settings = self.log.with_name("logging.json")
        line = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "level": "DEBUG"}
        loggers = {"vllm": "INFO", "vllm.lora.model_manager": "DEBUG"}
        described = {
            name: {"level": level, "handlers": ["out"], "propagate": False} for name, level in loggers.items()
        }
        whole = {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"out": line},
            "loggers": described,
        }
        settings.write_text(json.dumps(whole))
        return super().environment() | {"VLLM_LOGGING_CONFIG_PATH": str(settings)}

    def swaps(self) -> Counter:
        """How often, since the start, an adapter was read from its files ("read") and put into a place of the batch
        ("placed"). A request that finds its adapter there counts nowhere."""
        said = self.server.said()
        return Counter(read=said.count("Adding lora. Model id"), placed=said.count("Activating LoRA. int id"))


# --- load ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One request: whom it asked, when it began and ended (seconds since the load began), what came of it."""

    name: str
    began: float
    ended: float
    result: Any = None
    error: Exception | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Load:
    """All requests of a load, in the order in which they were given."""

    answers: list[Answer]
    seconds: float

    @property
    def failures(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.error is not None]

    @property
    def p50(self) -> float:
        """Median latency of the answered requests, in seconds; nan where none was."""
        return self.percentile(50)

    @property
    def p95(self) -> float:
        """Latency that 95 % of the answered requests keep, in seconds; nan where none was answered."""
        return self.percentile(95)

    def percentile(self, percent: float) -> float:
        times = [answer.seconds for answer in self.answers if answer.error is None]
        return float(np.percentile(times, percent)) if times else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """Tokens written in all answers (those that say how many, as `engine.Reply` does), over the whole time."""
        return sum(getattr(answer.result, "tokens", 0) for answer in self.answers) / self.seconds

    def __repr__(self):
        return (
            f"{len(self.answers)} requests in {self.seconds:.1f} s, {len(self.failures)} failed · p50 {self.p50:.2f} s · "
            f"p95 {self.p95:.2f} s · {self.tokens_per_second:.0f} tokens/s"
        )


def offer(call: Callable, requests: Sequence[tuple], clients: int) -> Load:
    """Send the requests from so many clients at once; each sends its next one when the last is answered.

    requests: tuples, the first of each the name that is asked; `call(*request)` gives the answer, from a thread. What
    it raises is kept as that request's error.

    >>> load = offer(lambda name, prompt: prompt.upper(), [("base", "a"), ("billing", "b")], clients=2)
    >>> [answer.result for answer in load.answers], load.failures
    (['A', 'B'], [])
    """
    if clients < 1:
        raise ValueError(f"{clients} clients: expected at least 1")
    begin = time.perf_counter()

    def one(request: tuple) -> Answer:
        began, result, error = time.perf_counter(), None, None
        try:
            result = call(*request)
        except Exception as problem:
            error = problem
        return Answer(request[0], began - begin, time.perf_counter() - begin, result, error)

    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(one, requests))
    return Load(answers, time.perf_counter() - begin)
