"""The table of docs/gpu.md: rows are kept and taken up, and one that is older than its notebook says so."""

import json
import re
from dataclasses import replace

import nbformat
import pytest
import torch

from tools import gpu
from tools.gpu import Row, keep, read, table, to_do

ROW = Row(
    "07_lora.ipynb",
    "NVIDIA H200",
    "bfloat16",
    "whole",
    "1.2",
    "3.4",
    "2.0",
    "2026-11-28",
    "torch 2.13.0, peft 0.21.2",
    "aa",
)
STOPPED = replace(ROW, what="09_qlora.ipynb", result="code cell 4: TypeError", source="bb")
TESTED = replace(ROW, what=gpu.TESTS, result="5 passed, 1 skipped", gpu_gb="", ram_gb="", source="cc")
NOW = {"07_lora.ipynb": "aa", "09_qlora.ipynb": "bb", gpu.TESTS: "cc"}


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "gpu.md"
    path.write_text(f"# Head\n\n<!-- gpu -->\n{gpu.NOTHING}\n<!-- end of gpu -->\n\nfoot\n", "utf8")
    monkeypatch.setattr(gpu, "sources", lambda: NOW)
    return path


def test_rows_come_back_as_they_were_kept(page):
    assert read(page) == []
    for row in (STOPPED, ROW, TESTED):
        keep(row, page)
    assert read(page) == [ROW, STOPPED, TESTED]
    text = page.read_text("utf8")
    assert gpu.NOTHING not in text and text.startswith("# Head\n") and text.endswith("\nfoot\n")


def test_a_run_made_again_takes_the_place_of_the_earlier_and_another_card_stands_beside_it(page):
    t4 = replace(ROW, card="a T4's memory on NVIDIA H200", arithmetic="float16")
    for row in (ROW, t4, replace(ROW, minutes="9.9")):
        keep(row, page)
    assert {(row.card, row.minutes) for row in read(page)} == {(ROW.card, "9.9"), (t4.card, "1.2")}


def test_a_row_older_than_its_notebook_says_so_and_only_that_one():
    lines = table([ROW, STOPPED], NOW | {"09_qlora.ipynb": "other"}).splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {11}
    assert lines[2].endswith("| aa |") and lines[3].endswith(f"| bb {gpu.NEWER} |")
    assert table([ROW], {}).endswith(f"| aa {gpu.NEWER} |")  # a notebook that is gone


def test_the_mark_of_an_older_row_goes_when_the_notebook_is_what_it_was(page, monkeypatch):
    monkeypatch.setattr(gpu, "sources", lambda: {"07_lora.ipynb": "other"})
    keep(ROW, page)
    assert gpu.NEWER in page.read_text("utf8") and read(page) == [ROW]
    assert gpu.NEWER not in table(read(page), NOW)


def test_a_run_goes_on_behind_what_is_whole_current_and_of_this_card():
    def left(rows, card=ROW.card, versions=ROW.versions, now=NOW):
        return to_do(rows, now, card, versions, [])

    assert left([]) == [gpu.TESTS, "07_lora.ipynb", "09_qlora.ipynb"]
    assert left([ROW, STOPPED, TESTED]) == ["09_qlora.ipynb"]
    assert left([ROW, TESTED], card="Tesla T4") == left([ROW, TESTED], versions="torch 3") == left([])
    assert left([ROW, TESTED], now=NOW | {"07_lora.ipynb": "other"}) == ["07_lora.ipynb", "09_qlora.ipynb"]
    assert to_do([ROW], gpu.sources(), ROW.card, ROW.versions, ["07"]) == ["07_lora_from_scratch.ipynb"]


@pytest.mark.parametrize(
    ("result", "passed"),
    [
        ("whole", True),
        ("5 passed", True),
        ("code cell 4: TypeError", False),
        ("1 failed, 5 passed", False),
        ("", False),
        ("nothing was counted", False),
        ("3 skipped", False),
    ],
)
def test_what_counts_as_passed(result, passed):
    assert replace(ROW, result=result).passed is passed


def test_figures_are_rounded_and_what_was_not_measured_stays_empty():
    row = gpu.row_of("x", "card", "v", "h", {"result": "a | b", "minutes": 1.26, "gpu_gb": 2.04})
    assert (row.arithmetic, row.result, row.minutes, row.gpu_gb, row.ram_gb) == ("", "a / b", "1.3", "2.0", "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", row.day)


def test_a_machine_without_cuda_is_told_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "run", lambda *_: pytest.fail("it ran"))
    assert gpu.main([]) == gpu.main(["--t4", "07"]) == 2
    assert capsys.readouterr().out.count("\n") == 2


def test_a_row_is_written_after_each_run_and_one_that_failed_is_told(page, monkeypatch):
    monkeypatch.setattr(gpu, "versions_here", lambda: ROW.versions)
    results = {"07_lora.ipynb": "whole", "09_qlora.ipynb": "code cell 4: TypeError"}

    def execute(path, environment):
        assert environment == {"LESSONLIB_DTYPE": "float16"}
        assert len(read(page)) == list(results).index(path.name)
        return {"result": results[path.name], "minutes": 1.0, "gpu_gb": 2.0, "ram_gb": 3.0}

    monkeypatch.setattr(gpu, "execute", execute)
    assert gpu.run([], "card", {"LESSONLIB_DTYPE": "float16"}, None, page) == 1
    assert [(row.what, row.result) for row in read(page)] == list(results.items())


def test_the_page_says_which_of_its_rows_are_older():
    assert f"<!-- gpu -->\n{table(read(), gpu.sources())}\n<!-- end of gpu -->" in gpu.PAGE.read_text("utf8"), (
        "run `make tables`"
    )


@pytest.mark.slow
def test_a_notebook_is_run_in_a_copy_as_a_t4_would_and_its_peak_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "COPIES", tmp_path / "copies")
    cells = [
        "import os; from lessonlib import hardware; print(hardware.dtype(), 'CI' in os.environ)",
        "1 / 0",
        "6 * 7",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, tmp_path / "two.ipynb")
    before = (tmp_path / "two.ipynb").read_bytes()
    monkeypatch.setenv("CI", "true")
    found = gpu.execute(tmp_path / "two.ipynb", {"LESSONLIB_DTYPE": "float16"})
    assert found["result"] == "code cell 2: ZeroDivisionError"
    assert 0.05 < found["ram_gb"] < 8 and 0 < found["minutes"] < 5 and "gpu_gb" in found
    assert found["arithmetic"] == "float16"
    copy = json.loads((tmp_path / "copies" / "two.ipynb").read_text("utf8"))
    assert copy["cells"][0]["outputs"][0]["text"] == ["torch.float16 False\n"]
    assert (tmp_path / "two.ipynb").read_bytes() == before


def test_a_simulated_t4_has_its_memory_and_no_bfloat16(tmp_path, monkeypatch):
    asked, hooks = [], []
    monkeypatch.setenv("LESSONLIB_GPU_GB", "15.6")
    monkeypatch.setenv("LESSONLIB_PEAKS", str(tmp_path / "peaks.json"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (140e9, 156e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 600_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 700_000_000)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)

    class Shell:
        events = type("Events", (), {"register": lambda self, when, what: hooks.append((when, what))})()

    exec(gpu.STARTUP, {"get_ipython": Shell})
    ((when, measure),) = hooks
    measure("result")
    assert when == "post_run_cell" and json.loads((tmp_path / "peaks.json").read_text())["gpu_gb"] == 0.7
    assert asked == [pytest.approx(0.1)]
    assert torch.cuda.mem_get_info() == (15_000_000_000, 15_600_000_000)
    assert not torch.cuda.is_bf16_supported(including_emulation=False)


def test_a_lesson_that_there_is_not_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["77"])
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith("no notebook for 77; there are 01_")
