"""From an event to the new picture, for every figure with controls: after a moment of rest, and in haste.

python benchmarks/figure_redraw.py [events]

At rest: the kernel had time to draw ahead what is one choice away, as between two movements of a hand. In haste: events
follow each other at once, so that a choice not seen before has to be drawn. What the browser adds is not in it.
"""

import asyncio
import random
import statistics
import sys
import time
from pathlib import Path

import torch

# There the figures stand as the notebooks build them, with the data that their tests share.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "figures"))

from interactive_figures import INTERACTIVE
from widget_events import move, positions

AT_MOST = 100.0  # milliseconds, at rest
REST = 0.1  # seconds without a drawing, after which a kernel counts as being at rest


def event(figure, draw: random.Random) -> float:
    """Milliseconds of one movement, chosen at random."""
    which, index = draw.choice(positions(figure))
    began = time.perf_counter()
    move(figure, which, index)
    return 1000 * (time.perf_counter() - began)


async def rest() -> None:
    """Until the kernel has drawn ahead all it wants to: its loop answers at once for a while."""
    quiet = time.perf_counter()
    while time.perf_counter() - quiet < REST:
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        if time.perf_counter() - before > 0.02:  # a drawing came in between
            quiet = time.perf_counter()


async def measure(build, events: int) -> tuple[list[float], list[float]]:
    """Milliseconds of so many events at rest, and of as many in haste."""
    draw, figure, calm = random.Random(0), build(), []
    for _ in range(events):
        await rest()
        calm.append(event(figure, draw))
    figure = build()
    return calm, [event(figure, draw) for _ in range(events)]


def main(events: int = 20) -> int:
    torch.set_num_threads(1)
    missed = 0
    print(f"milliseconds, {events} events each: median and highest at rest, median and highest in haste")
    for name, build in INTERACTIVE.items():
        calm, haste = asyncio.run(measure(build, events))
        numbers = "  ".join(f"{statistics.median(ms):6.1f} {max(ms):6.1f}" for ms in (calm, haste))
        missed += max(calm) > AT_MOST
        print(f"{name:16} {numbers}{'   over ' + str(AT_MOST) if max(calm) > AT_MOST else ''}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
