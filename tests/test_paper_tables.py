"""Published figures: transcribed as printed, held to arithmetic that the papers themselves allow."""

import csv
import doctest
import math

import pytest

from lessonlib import paper_tables
from lessonlib.paper_tables import DIRECTORY, paper_table, published

TABLES = sorted(path.stem for path in DIRECTORY.glob("*.csv"))
HU = [f"hu2021_table{number}" for number in (1, 4, 5, 6, 12, 15, 18)]
WIDTH, LAYERS = 12_288, 96  # GPT-3 175B: Hu et al. 2021, sections 1 and 7.1


def test_the_tables_of_hu_are_here():
    assert set(HU) <= set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_file_has_one_finite_value_a_line_and_no_cell_twice(name):
    with (DIRECTORY / f"{name}.csv").open(encoding="utf8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["paper", "table", "row", "column", "value", "unit"]
    cells = paper_table(name)
    assert len(cells) == len(lines) > 0
    assert len({(cell.row, cell.column) for cell in cells}) == len(cells)
    assert all(math.isfinite(cell.value) for cell in cells)
    assert len({cell.paper for cell in cells}) == 1
    assert {f"table{cell.table}" for cell in cells} == {name.partition("_")[2]}
    assert all(text == text.strip() for line in lines for text in line)


@pytest.mark.parametrize("name", TABLES)
def test_published_finds_every_cell(name):
    for cell in paper_table(name):
        assert published(name, cell.row, cell.column) == cell.value


@pytest.mark.parametrize(
    "table, row, column, value",
    [  # read in the paper, kept apart from the files: the figures that the claims lean on
        ("hu2021_table1", "AdapterH", "1 x 128 slower", 30.3),
        ("hu2021_table1", "AdapterH", "32 x 512 slower", 3.0),
        ("hu2021_table4", "FT", "WikiSQL", 73.8),
        ("hu2021_table4", "LoRA 4.7M", "SAMSum R1", 53.8),
        ("hu2021_table4", "LoRA 37.7M", "WikiSQL", 74.0),
        ("hu2021_table5", "QKVO", "MNLI", 91.7),
        ("hu2021_table6", "QV r=1", "WikiSQL", 73.4),
        ("hu2021_table6", "QV r=64", "WikiSQL", 73.5),
        ("hu2021_table15", "AdapterH r=64", "parameters", 304.4),
        ("hu2021_table18", "r=4", "BLEU", 70.38),
    ],
)
def test_figures_of_the_claims(table, row, column, value):
    assert published(table, row, column) == value


def test_lora_counts_are_two_d_r_a_matrix():
    # Hand arithmetic, 2 d r a matrix; the paper cuts digits off (603.98 stands as 603.8).
    for cell in paper_table("hu2021_table15"):
        method, *rest = cell.row.split()
        if method == "LoRA" and cell.column == "parameters":
            targets, rank = rest[0], int(rest[1].removeprefix("r="))
            assert cell.value == pytest.approx(2 * WIDTH * rank * len(targets) * LAYERS / 1e6, abs=0.2)


def test_adapter_counts_are_two_bottlenecks_a_layer_with_biases():
    for rank in (1, 4, 8, 16, 64):
        bottleneck = 2 * WIDTH * rank + rank + WIDTH
        printed = published("hu2021_table15", f"AdapterH r={rank}", "parameters")
        assert printed == pytest.approx(2 * LAYERS * bottleneck / 1e6, abs=0.06)


def test_latency_shares_follow_from_the_milliseconds():
    for row in ("AdapterL", "AdapterH"):
        for setting in ("32 x 512", "16 x 256", "1 x 128"):
            base = published("hu2021_table1", "FT/LoRA", setting)
            slower = 100 * (published("hu2021_table1", row, setting) / base - 1)
            assert published("hu2021_table1", row, f"{setting} slower") == pytest.approx(slower, abs=0.06)


def test_targets_at_one_budget_have_one_budget():
    # r times the number of matrices is 8 throughout: 18.9 million parameters.
    rows = [cell for cell in paper_table("hu2021_table5") if cell.column == "rank"]
    assert [cell.value * len(cell.row) for cell in rows] == [8.0] * 7


def test_tables_5_6_and_15_agree_where_they_overlap():
    for task, name in (("WikiSQL", "WikiSQL"), ("MNLI", "MNLI-m")):
        for cell in paper_table("hu2021_table6"):
            if cell.column == task and cell.row.startswith("QKVO") and "r=8" not in cell.row:
                assert published("hu2021_table15", f"LoRA {cell.row}", name) == cell.value
        assert published("hu2021_table5", "QV", task) == published("hu2021_table6", "QV r=4", task)
        assert published("hu2021_table5", "QKVO", task) == published("hu2021_table6", "QKVO r=2", task)


def test_learning_rate_of_lora_is_forty_times_that_of_full_fine_tuning():
    rates = [published("hu2021_table12", row, "learning rate") for row in ("LoRA", "FT")]
    assert rates[0] / rates[1] == pytest.approx(40)


def test_errors_name_what_there_is():
    with pytest.raises(KeyError, match=r"no table 'hu2021_table99'.*hu2021_table4, hu2021_table5"):
        paper_table("hu2021_table99")
    with pytest.raises(KeyError, match=r"no row 'LoRA'.*FT, BitFit 14\.2M"):
        published("hu2021_table4", "LoRA", "WikiSQL")
    with pytest.raises(KeyError, match=r"no column 'SQuAD'; there are parameters, WikiSQL"):
        published("hu2021_table4", "FT", "SQuAD")


def test_a_caller_cannot_change_the_kept_table():
    paper_table("hu2021_table4").clear()
    assert paper_table("hu2021_table4")


def test_examples_in_the_docstrings_hold():
    outcome = doctest.testmod(paper_tables)
    assert outcome.attempted >= 2 and outcome.failed == 0
