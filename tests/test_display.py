"""Claims of lessonlib.display. The bar: off a terminal, in one (a pseudo-terminal), in a notebook (a stand-in for its
kernel). The table: beside html's own parser."""

import contextlib
import errno
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lessonlib import display
from lessonlib.display import Bar, Table, to_numpy, widget_view, written_aside

# --- widgets --------------------------------------------------------------------------------------------------


def test_a_box_is_shown_by_its_id_alone_as_ipywidgets_7_knows_no_other_way():
    view = {"version_major": 2, "version_minor": 0, "model_id": "abc"}
    assert widget_view(SimpleNamespace(model_id="abc")) == {"application/vnd.jupyter.widget-view+json": view}


def test_it_is_what_ipywidgets_says_of_itself():
    from ipywidgets import VBox

    box = VBox()
    said = box._repr_mimebundle_() if hasattr(box, "_repr_mimebundle_") else widget_view(box)
    assert widget_view(box).items() <= said.items()


# --- the bar ------------------------------------------------------------------------------------------------

CODE = """
from lessonlib.display import Bar
bar = Bar(total=3, desc="Counting", mininterval=0)
for _ in range(3):
    bar.set_postfix_str(" loss 0.5", refresh=False)
    bar.update()
bar.finish("Counted to three")
"""


def test_off_a_terminal_one_line_is_left_and_nothing_on_stderr():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("Counted to three\n", "")


def test_off_a_terminal_a_bar_that_is_only_closed_leaves_nothing(capfd):
    bar = Bar(total=3, desc="Counting")
    bar.update()
    bar.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_in_a_terminal_the_bar_moves_and_the_line_takes_its_place():
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    done = subprocess.run([sys.executable, "-c", CODE], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.stderr == b""
    assert "Counting" in shown and "3/3" in shown
    assert shown.split("\r\n")[0].split("\r")[-1] == "Counted to three"
    assert shown.endswith("Counted to three\r\n")


class Display:
    """Stands for IPython.display.display: keeps every text that the one output shows."""

    def __init__(self):
        self.outputs, self.shown = 0, []

    def __call__(self, line, display_id):
        self.outputs += 1
        self.update(line)
        return self

    def update(self, line):
        self.shown.append(line._repr_mimebundle_()["text/plain"])


@pytest.fixture
def notebook(monkeypatch):
    shown = Display()
    monkeypatch.setattr(display, "get_ipython", lambda: SimpleNamespace(kernel=True))
    monkeypatch.setattr(display, "display", shown)
    return shown


def test_in_a_notebook_one_output_is_updated_and_keeps_the_line(notebook, capfd):
    bar = Bar(total=3, desc="Counting", mininterval=0)
    for _ in range(3):
        bar.update()
    bar.finish("Counted to three")
    bar.close()
    assert notebook.outputs == 1
    assert "Counting" in notebook.shown[0] and "3/3" in notebook.shown[-2]
    assert notebook.shown[-1] == "Counted to three"
    assert capfd.readouterr() == ("", "")


def test_in_a_notebook_a_bar_that_fails_half_way_stays_where_it_stood(notebook, capfd):
    bar = Bar(total=3, desc="Counting", mininterval=0)
    bar.update()
    bar.close()
    assert notebook.outputs == 1 and "1/3" in notebook.shown[-1]
    assert capfd.readouterr() == ("", "")


def test_a_line_has_no_form_but_text():
    assert display._Line("x")._repr_mimebundle_() == {"text/plain": "x"}


# --- the table ----------------------------------------------------------------------------------------------


class Cells(HTMLParser):
    """Collects the text of each cell."""

    def __init__(self, page):
        super().__init__()
        self.found, self.at = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.at = tag if tag in ("th", "td") else None

    def handle_data(self, data):
        if self.at:
            self.found.append((self.at, data))


def test_html_and_text_say_the_same():
    table = Table(("a <b>", "c"), [("1 & 2", 3), ("x", 4.5)])
    assert Cells(table._repr_html_()).found == [
        ("th", "a <b>"), ("th", "c"), ("td", "1 & 2"), ("td", "3"), ("td", "x"), ("td", "4.5"),
    ]  # fmt: skip
    assert repr(table) == "a <b> | c\n1 & 2 | 3\nx | 4.5"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="has 1 cells; the table has 2 columns"):
        Table(("a", "b"), [("1",)])


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_numbers_of_any_type_leave_for_numpy(dtype):
    values = torch.tensor([[0.0, 1.0], [2.5, -3.0]]).to(dtype)
    left = to_numpy(values)
    assert left.dtype == {torch.float16: "float32", torch.bfloat16: "float32"}.get(dtype, str(dtype)[6:])
    assert left.tolist() == values.tolist()


def test_what_trains_and_what_is_no_tensor_leave_too():
    assert to_numpy(torch.ones(2, requires_grad=True) * 2).tolist() == [2.0, 2.0]
    assert to_numpy([1, 2]).tolist() == [1, 2]
    already = np.ones(3)
    assert to_numpy(already) is already


# --- files -------------------------------------------------------------------------------------------------


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_takes_its_name_once_it_is_whole_and_on_the_disk(tmp_path, monkeypatch):
    path, synced = tmp_path / "a ü.json", []
    path.write_text("old")
    monkeypatch.setattr(display, "_sync", lambda path: synced.append(path.name))
    with written_aside(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["a ü.json"]
    assert synced == [aside.name, tmp_path.name]


def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), written_aside(path) as aside:
        aside.write_text("a part")
        raise OSError("full")
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_a_directory_takes_the_place_of_another_as_a_whole(tmp_path):
    path = tmp_path / "adapter"
    for files in ({"config": "1", "weights": "1"}, {"config": "2"}):
        with written_aside(path) as aside:
            aside.mkdir()
            for name, text in files.items():
                (aside / name).write_text(text)
        assert {file.name: file.read_text() for file in path.iterdir()} == files
    assert names(tmp_path) == ["adapter"]


def test_a_directory_that_cannot_take_the_place_gives_it_back(tmp_path, monkeypatch):
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "config").write_text("old")
    real = Path.replace

    def replace(self, target):
        if target == path and not self.stem.endswith("-old"):
            raise OSError("not now")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="not now"), written_aside(path) as aside:
        aside.mkdir()
    assert (path / "config").read_text() == "old" and names(tmp_path) == ["adapter"]


def test_two_that_write_one_name_do_not_meet(tmp_path):
    path = tmp_path / "a.json"
    with written_aside(path) as first, written_aside(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and names(tmp_path) == ["a.json"]


def test_a_disk_that_does_not_take_it_is_an_error_and_a_file_system_without_sync_is_none(tmp_path, monkeypatch):
    for number, held in ((errno.ENOSPC, False), (errno.EINVAL, True)):
        monkeypatch.setattr(os, "fsync", lambda handle, number=number: (_ for _ in ()).throw(OSError(number, "no")))
        with contextlib.nullcontext() if held else pytest.raises(OSError, match="no"):
            with written_aside(tmp_path / "a.json") as aside:
                aside.write_text("x")
        assert (tmp_path / "a.json").exists() == held
