"""data/decision.toml: what stands in it is used."""

from lessonlib.choosing import EVIDENCE, FEW, all_evidence, read_tree


def test_each_reading_gives_the_same_tree():
    assert read_tree() == read_tree()


def test_a_name_is_one_question_wherever_it_is_called():
    tree, _ = read_tree()
    few, _ = tree.answer("weights").then.answers
    assert few.then is tree.answer("probabilities").then


def test_all_evidence_is_called_by_the_file():
    assert {id(one) for one in all_evidence()} == {id(one) for one in EVIDENCE.values()}
    assert len(EVIDENCE) > 20


def test_the_limit_of_the_file_is_that_of_the_evidence():
    tree, _ = read_tree()
    few, enough = tree.answer("weights").then.answers
    assert few.label == f"fewer than {FEW}" and enough.label == f"{FEW} or more"
    assert few.values == range(FEW) and enough.values[0] == FEW
