"""What notebook 04 promises beyond what holds for all notebooks."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

import pytest
import torch
from lesson_cells import definition

from lessonlib.experiments import rerun
from lessonlib.experiments.lesson04_game_of_24 import PROPOSERS
from lessonlib.experiments.lesson04_reasoning import KINDS, TARGETS, TUNED, WAYS, prompt_runs
from lessonlib.experiments.lesson04_votes import vote_problems
from lessonlib.experiments.trials import chosen
from lessonlib.networks import small_transformer
from lessonlib.networks.small_transformer import arithmetician, chained_arithmetic
from lessonlib.reasoning import Vote, final_number, majority_vote, search
from lessonlib.runs import load_runs
from lessonlib.training import fit


def defined(name: str, *edit: str) -> Callable:
    """What the cell defines, after an edit of one line, with the names that the notebook has there."""
    source = definition("04", name)
    if edit:
        assert edit[0] in source
        source = source.replace(*edit)
    names = vars(search) | vars(small_transformer)
    names |= {name.__name__: name for name in (Counter, Vote, Callable, Hashable, Iterable, Sequence)}
    exec(source, names)
    return names[name]


def losses(form: Callable, loss: Callable) -> list[float]:
    torch.manual_seed(0)
    model = arithmetician(width=16, layers=1)
    batches = [form(chained_arithmetic(8, 4, seed)) for seed in range(5)]
    return fit(model, batches, learning_rate=1e-2, loss=loss, warmup=1).losses


@pytest.mark.parametrize(
    "name, line, edited",
    [
        ("filler_dots", ", DOT)", ", 7)"),
        ("filler_dots", "[:, 1:], DOT", "[:, 3:], DOT"),
        ("target_loss", "- 1 :]", "- 1 :] * 2"),
        ("target_loss", "tokens[:, :-1]", "tokens[:, :-1].clamp(max=9)"),
    ],
)
def test_an_edit_in_what_the_networks_are_taught_changes_their_losses(name, line, edited):
    def trained(*edit):
        parts = {part: defined(part) for part in ("filler_dots", "target_loss")} | {name: defined(name, *edit)}
        return losses(parts["filler_dots"], parts["target_loss"])

    before = trained()
    assert trained() == before
    assert trained(line, edited) != before


def test_an_edit_in_the_notebooks_own_vote_changes_the_outcome():
    answers = [None, 7, None, 5, None, 5]
    assert defined("majority_vote")(answers) == majority_vote(answers) == Vote(5, 2, 6, False)
    assert defined("majority_vote", "if answer is not None", "if True")(answers).answer is None


def test_an_edit_in_the_notebooks_own_search_changes_the_outcome():
    hand = [4, 6, 8, 8]
    ours = defined("breadth_first")
    assert [ours(hand, beam_width=width) for width in (5, None)] == [
        search.breadth_first(hand, beam_width=width) for width in (5, None)
    ]
    assert defined("breadth_first", "reverse=True", "reverse=False")(hand) != ours(hand)
    assert defined("breadth_first", "nodes += 1", "nodes += 2")(hand).nodes > ours(hand).nodes


def test_all_kinds_were_asked_in_all_ways():
    runs = prompt_runs()
    assert list(runs) == list(KINDS) and all(list(ways) == list(WAYS) for ways in runs.values())
    for ways in runs.values():
        assert len({tuple(run.score["targets"]) for run in ways.values()}) == 1  # the same questions
        assert all(len(run.results["written"]) == run.score["n"] >= 60 for run in ways.values())


def test_all_targets_were_tuned_alike_and_on_the_same_problems():
    groups = [chosen("tuned", target=target, **TUNED) for target in TARGETS]
    assert len({tuple(run.settings["seed"] for run in group) for group in groups}) == 1
    for setting in ("most_steps", "r", "steps", "batch_size"):
        assert len({run.settings[setting] for group in groups for run in group}) == 1
    assert len({tuple(run.results["ids"]) for group in groups for run in group}) == 1


def test_what_was_read_from_the_recorded_chains_can_be_read_again():
    for run in chosen("tuned", target="chain", **TUNED):
        assert [final_number(text) for text in run.results["written"]] == run.score["predictions"]


def test_the_recorded_vote_is_that_of_all_its_chains():
    [run] = load_runs("votes")
    assert [majority_vote(answers).answer for answers in run.results["sampled"]] == run.score["predictions"]
    problems = vote_problems(run.settings["count"], run.settings["most_steps"])
    assert [row["answer"] for row in problems] == run.score["targets"]


def test_a_hand_counts_as_solved_when_its_expression_makes_24():
    for name in PROPOSERS:
        [run] = load_runs("game_of_24", proposer=name)
        for hand, expression, solved in zip(
            run.results["hands"], run.results["expressions"], run.score["predictions"]
        ):
            assert solved == (expression is not None and search.makes_24(expression, hand))


@pytest.mark.model
def test_a_recorded_run_repeats_itself_inside_its_band():
    assert rerun(prompt_runs()["recall"]["direct"].id).inside
