"""The figures of 09: the checks of tests/pictures.py, and what their descriptions say by hand arithmetic."""

from typing import ClassVar

import pytest
import torch
from pictures import PictureChecks
from widget_events import controls, shown

from lessonlib import figures
from lessonlib.costs import Memory
from lessonlib.figures.lesson09 import even_steps
from lessonlib.quantization.formats import Measured
from lessonlib.quantization.nf4 import CODEBOOK

W = 0.02 * torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
FORMATS = {"NF4": 9.2, "FP4": 12.2, "NF4, double quantization": 9.2, "NF2": 56.4}


def measured(bits: float, error: float) -> Measured:
    return Measured("one", bits, error / 100, 0.2)


def formats():
    return figures.formats({name: (measured(4.5, e), measured(4.5, 0.9 * e)) for name, e in FORMATS.items()})


def sizes():
    return figures.block_sizes({16: measured(6, 8.1), 64: measured(4.5, 9.2), 4096: measured(4.01, 11)})


def update(scale: float):
    return figures.update_and_step(scale * W, torch.full((128,), 0.003))


def plan(gigabytes: float) -> Memory:
    return Memory(weights=1e9 * gigabytes, gradients=0, optimizer=0, activations=0)


def cards():
    ways = ("full fine-tuning", "LoRA", "QLoRA")
    models = {"7B": (81, 14.5, 4.9), "13B": (157, 27, 8.7), "70B": (829, 142, 41)}
    plans = {m: {w: plan(size) for w, size in zip(ways, each)} for m, each in models.items()}
    return figures.cards(plans, {"16 GB": 14.6, "24 GB": 24.3, "48 GB": 46.8, "80 GB": 84.4})


PICTURES = {
    "code book": lambda: figures.code_book(W, CODEBOOK),
    "bits slider": lambda: figures.bits_slider(W).still,
    "few bits": lambda: figures.bits_slider(W, bits=(2, 4)).still,
    "formats": formats,
    "block sizes": sizes,
    "reading": lambda: figures.read_losses({"Q4_1": 3.8, "NF4": 3.95, "NF2": 9.1}, 3.8),
    "reading, none far off": lambda: figures.read_losses({"Q4_1": 3.8, "NF4": 3.95, "NF3": 4.2}, 3.8),
    "small update": lambda: update(0.01),
    "large update": lambda: update(1.0),
    "cards": cards,
    "outweigh": lambda: figures.outweigh((576, 4096, 8192), (8, 32, 128, 512, 2048)),
    "no gradient": lambda: figures.gradients_before_and_after([0.3] * 30, [0.0] * 30),
    "all gradients": lambda: figures.gradients_before_and_after([0.3, 0.2], [0.3, 0.2]),
}


class TestPictures(PictureChecks):
    pictures: ClassVar = PICTURES
    figure_shown: ClassVar = {"bits slider": 2, "few bits": 1}


def test_even_steps_are_those_of_a_signed_integer():
    assert even_steps(3).mul(3).tolist() == pytest.approx([-3, -2, -1, 0, 1, 2, 3])


def test_break_even_ranks_are_hand_arithmetic():
    # d² / 2 bytes of a 4-bit base, 2 · d · r · 2 bytes of a float16 adapter: r = d / 8.
    alt = figures.outweigh((576, 4096, 8192), (8, 2048)).alt
    assert "width 576: rank 72; width 4096: rank 512; width 8192: rank 1024" in alt


def test_the_slider_changes_the_picture():
    interactive = figures.bits_slider(W, bits=(2, 4))
    control, _ = controls(interactive)
    before = shown(interactive)
    control.value = 2
    assert shown(interactive) != before and "NormalFloat in 2 bits" in shown(interactive)


@pytest.mark.parametrize("after, lost", [([0.0, 0.2], 1), ([0.3, 0.2], 0), ([0.0, 0.001], 2)])
def test_layers_without_a_gradient_are_counted(after, lost):
    assert f"In {lost} of them" in figures.gradients_before_and_after([0.3, 0.2], after).alt
