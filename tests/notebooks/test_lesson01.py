"""What notebook 01 promises beyond what holds for all notebooks."""

from dataclasses import dataclass

import pytest
from lesson_cells import cells, definition

from lessonlib.costs import (
    MASTER_WEIGHTS,
    FullFineTuning,
    activations,
    architecture,
    block_parts,
    training_memory,
)
from lessonlib.exercises import exercises

EXERCISES = exercises("01")


def precision(source):
    names = {"dataclass": dataclass}
    exec(source, names)
    return names["Precision"]


def total(Precision):
    recipe = Precision("mine", weight=2, gradient=2, moments=8, master=4)
    return recipe.bytes, training_memory("gpt2", precision=recipe).total


def test_the_notebooks_own_class_plans_what_the_librarys_does():
    assert total(precision(definition("01", "Precision"))) == (
        16,
        training_memory("gpt2", precision=MASTER_WEIGHTS).total,
    )


@pytest.mark.parametrize(
    "line, edited",
    [
        (
            "master: int = 0",
            "master: int = 0\n\n    def __post_init__(self): object.__setattr__(self, 'master', 0)",
        ),
        (
            "self.weight + self.gradient + self.moments + self.master",
            "self.weight + self.gradient + self.moments",
        ),
    ],
)
def test_an_edit_in_the_notebooks_own_class_changes_the_outcome(line, edited):
    source = definition("01", "Precision")
    assert line in source
    assert total(precision(source.replace(line, edited))) != total(precision(source))


def test_the_exercises_are_what_the_library_computes():
    model = architecture("gpt3-175b")
    block = sum(block_parts(model, FullFineTuning(), 2, 1, 512).values())
    assert EXERCISES["01.3"].reference(512, 1, model.d, model.heads) == block
    kept = activations(model, FullFineTuning(), element=2, batch=1, tokens=512, recompute=True)
    held, peak = EXERCISES["01.4"].reference(model.layers, block, 2 * 512 * model.d)
    assert peak - held == kept.peak - kept.held == block
    assert EXERCISES["01.1"].reference(175e9) == 12 * 175e9


def test_the_stored_proof_is_exact_and_within_fifteen_per_cent():
    said = "\n".join(o.get("text", "") for c in cells("01") for o in c.get("outputs", []))
    assert "As expected: all but activations to the byte." in said
    assert "As expected: activations within 15 %." in said
