"""Each wrong line of tests/mutations.py makes one of its tests fail; without it they pass."""

import mutations
import pytest


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_old_text_stands_once_in_its_file(mutation, tmp_path):
    path = tmp_path / "lessonlib" / mutation.file
    path.parent.mkdir(parents=True)
    before = (mutations.ROOT / "lessonlib" / mutation.file).read_text("utf8")
    path.write_text(before, "utf8")
    mutation.apply(tmp_path)
    assert path.read_text("utf8") != before
    compile(path.read_text("utf8"), str(path), "exec")  # a wrong line, not a broken one


def test_an_outgrown_change_is_named(tmp_path):
    (tmp_path / "lessonlib").mkdir()
    (tmp_path / "lessonlib" / "a.py").write_text("x = 1\nx = 1\n", "utf8")
    with pytest.raises(ValueError, match=r"a\.py holds 'x = 1' 2 times"):
        mutations.Mutation("", "a.py", "x = 1", "x = 2", "").apply(tmp_path)


@pytest.mark.robust
def test_without_a_change_all_tests_pass():
    assert not (fault := mutations.unchanged(mutations.MUTATIONS)), fault


@pytest.mark.robust
@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_wrong_line_is_noticed(mutation):
    assert not (fault := mutations.missed(mutation)), fault
