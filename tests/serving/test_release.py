"""Claims of lessonlib.serving.release. References: Newcombe's published example, hand arithmetic, hashlib, simulated answers."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch

from lessonlib.evaluation import Accuracy
from lessonlib.serving import release
from lessonlib.serving.monitoring import PredictionDrift
from lessonlib.serving.report import CHECKLIST, Check, Report, ReportError


def answers(right: int, n: int) -> Accuracy:
    return Accuracy([1] * right + [0] * (n - right), [1] * n)


# --- quality ------------------------------------------------------------------------------------------------


def test_a_threshold_counts_only_if_it_was_stated_first():
    assert release.threshold_first(stated=10.0, trained=20.0).passed
    assert not release.threshold_first(stated=30.0, trained=20.0).passed


def test_quality_is_held_to_the_threshold():
    assert release.quality_reached(answers(80, 100), 0.8).passed
    failed = release.quality_reached(answers(79, 100), 0.8)
    assert not failed.passed
    assert failed.figure == "0.790 (0.700 to 0.858, n = 100)"  # Wilson's interval, by hand


def test_a_small_lead_over_a_baseline_is_not_enough():
    assert release.better_than("a coin", answers(90, 100), answers(50, 100)).passed
    assert not release.better_than("a rival", answers(52, 100), answers(50, 100)).passed
    assert not release.better_than("a better one", answers(50, 100), answers(90, 100)).passed


def test_the_gap_of_validation_and_test_has_newcombes_interval():
    # Newcombe, Statistics in Medicine 17 (1998), Table II (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    check = release.validation_holds(answers(56, 70), answers(48, 80))
    assert check.figure == "0.800 and 0.600: +0.200 (+0.052 to +0.334)"
    assert not check.passed
    assert release.validation_holds(answers(48, 80), answers(56, 70)).passed  # better than chosen on
    assert release.validation_holds(answers(8, 10), answers(7, 10)).passed


def test_full_fine_tuning_is_asked_for_only_where_quality_is_missed():
    assert release.full_fine_tuning_answered(answers(9, 10), 0.8).passed
    assert not release.full_fine_tuning_answered(answers(7, 10), 0.8).passed
    compared = release.full_fine_tuning_answered(answers(7, 10), 0.8, full=answers(8, 10))
    assert compared.passed and "-0.100" in compared.figure


def test_a_regression_beyond_the_margin_fails():
    assert release.no_regression("mood", answers(50, 100), answers(41, 100)).passed
    assert not release.no_regression("mood", answers(50, 100), answers(39, 100)).passed
    assert release.kept_quality("4 bits", answers(50, 100), answers(47, 100)).passed
    assert not release.kept_quality("4 bits", answers(50, 100), answers(46, 100)).passed


def test_of_few_answers_one_may_change():
    assert release.kept_quality("4 bits", answers(26, 30), answers(25, 30)).passed
    assert not release.kept_quality("4 bits", answers(26, 30), answers(24, 30)).passed


def test_plain_text_may_cost_a_tenth_of_a_nat_more():
    before = np.array([3.0, 4.0, 5.0])
    assert release.text_kept(before, before + 0.09).passed
    assert not release.text_kept(before, before + 0.11).passed
    with pytest.raises(ReportError, match="3 and of 2 texts"):
        release.text_kept(before, before[:2])


def test_the_calibration_error_by_hand():
    # Bins [0.5, 0.6): 0.55 sure, both right; [0.9, 1]: 0.95 and 1.0 sure, 1 of 2 right.
    expected = 0.5 * abs(0.55 - 1) + 0.5 * abs(0.975 - 0.5)
    ours = release.calibration_error([0.55, 0.55, 0.95, 1.0], [True, True, True, False])
    assert ours == pytest.approx(expected)


def drawn(n, sharper=1.0):
    """Log-probabilities of three classes, answers drawn from them, and then made surer than they ought to be."""
    logits = 2 * torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.multinomial(logits.softmax(-1), 1, generator=torch.Generator().manual_seed(1))[:, 0]
    return (sharper * logits).log_softmax(-1), targets.tolist()


def test_exact_confidences_pass_and_exaggerated_ones_fail():
    assert release.calibrated(*drawn(400)).passed
    assert not release.calibrated(*drawn(400, sharper=4.0)).passed


def test_few_texts_are_not_blamed_for_what_chance_gives():
    exact = release.calibrated(*drawn(12), at_most=0.0)
    assert exact.passed and not exact.figure.startswith("0.000")
    assert not release.calibrated(*drawn(400, sharper=4.0), at_most=0.0).passed


# --- data ---------------------------------------------------------------------------------------------------

LONG = "my parcel of last week has not come and nobody answers my calls"


@pytest.mark.parametrize(
    "copy",
    [LONG, LONG.upper() + "!!", LONG.replace("week", "month"), "Hello, " + LONG],
    ids=["the same", "louder", "one word other", "one word more"],
)
def test_a_copy_of_a_training_text_is_found(copy):
    assert not release.no_leak([LONG], [copy]).passed


def test_other_texts_are_no_copies():
    train = [LONG, "order 12", "thanks"]
    assert release.no_leak(train, ["my calls", "nobody answers"]).passed


# --- outputs, files, service --------------------------------------------------------------------------------


def test_outputs_are_compared_to_a_tolerance():
    one = torch.tensor([[-0.1, -2.4], [-3.0, -0.05]])
    assert release.same_outputs("merged", one, one + 9e-5).passed
    failed = release.same_outputs("merged", one, one.flip(-1))
    assert not failed.passed and "0 of 2 answers" in failed.figure
    assert not release.same_outputs("merged", one, one * float("nan")).passed
    with pytest.raises(ReportError, match="cannot be compared"):
        release.same_outputs("merged", one, one[:1])


def test_latency_is_judged_by_its_tail():
    assert release.latency("forward", [0.01] * 99 + [5.0], 0.1).passed
    assert not release.latency("forward", [0.01] * 90 + [5.0] * 10, 0.1).passed


def test_sizes_are_those_of_the_files(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(bytes(60))
    (tmp_path / "inner" / "b").write_bytes(bytes(40))
    assert release.size("adapter", tmp_path, 100).passed
    assert not release.size("adapter", tmp_path, 99).passed
    assert release.size("adapter", tmp_path / "a", 60).figure == "60 bytes"


def test_a_pickle_is_found_and_weights_are_asked_for(tmp_path):
    assert not release.safetensors_only(tmp_path).passed
    (tmp_path / "model.safetensors").touch()
    assert release.safetensors_only(tmp_path).passed
    (tmp_path / "pytorch_model.bin").touch()
    assert "pytorch_model.bin" in release.safetensors_only(tmp_path).figure
    assert not release.safetensors_only(tmp_path).passed


def test_inputs_that_are_let_in_or_crash_are_named():
    def careful(x):
        if not x:
            raise ValueError("empty")
        return 1 / x

    assert release.refuses(careful, {"empty": ""}).passed
    check = release.refuses(careful, {"empty": "", "a number": 2, "a word": "two"})
    assert not check.passed
    assert check.figure == "1 of 3; not refused: a number, a word (TypeError)"


def test_a_watch_must_be_silent_first_and_speak_then():
    watch, fair, shifted = PredictionDrift([0, 1] * 50, labels=2), [0, 1] * 20, [1] * 40
    assert release.watch_tells(watch, fair, shifted).passed
    assert not release.watch_tells(watch, fair, fair).passed
    assert not release.watch_tells(watch, shifted, shifted).passed


# --- where it comes from ------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_text("w")
    (tmp_path / "data.csv").write_text("text,label\n")
    return {"adapter": tmp_path / "adapter", "data": tmp_path / "data.csv"}


def test_hashes_are_sha256_of_the_files(parts):
    found = release.provenance(**parts)
    assert found["adapter"]["files"] == {"weights": hashlib.sha256(b"w").hexdigest()}
    assert found["data"]["files"] == {"data.csv": hashlib.sha256(b"text,label\n").hexdigest()}
    assert {"torch", "transformers", "peft"} <= found["packages"].keys()


def test_a_changed_a_new_and_a_lost_file_are_named(parts):
    found = release.provenance(**parts)
    assert release.unchanged(found).passed
    (parts["adapter"] / "weights").write_text("other")
    (parts["adapter"] / "more").touch()
    parts["data"].unlink()
    check = release.unchanged(found)
    assert not check.passed
    assert check.figure.endswith("changed: adapter/more, adapter/weights, data/data.csv")


def test_a_part_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ReportError, match="nowhere does not exist"):
        release.provenance(base=tmp_path / "nowhere")


# --- the report ---------------------------------------------------------------------------------------------

GOOD, BAD = Check("size", True, "9 bytes", "at most 10"), Check("p|q", False, "0.2\nand more", "0.1")


def test_one_failure_fails_the_report_and_none_is_no_pass():
    assert Report("x", [GOOD]).passed
    assert not Report("x", [GOOD, BAD]).passed and Report("x", [GOOD, BAD]).failures == [BAD]
    assert not Report("x").passed


def test_a_report_is_read_as_it_was_written(tmp_path, parts):
    report = Report("Tickets", [GOOD, BAD], {"seconds": 3.5}, release.provenance(**parts))
    paths = report.write(tmp_path / "out")
    assert [path.name for path in paths] == ["report.json", "report.md"]
    assert Report.read(tmp_path / "out") == report
    assert json.loads(paths[0].read_text("utf8"))["passed"] is False
    with pytest.raises(ReportError, match=r"report\.json is no report"):
        Report.read(tmp_path)


def test_the_page_holds_every_check_figure_and_hash(parts):
    page = Report("Tickets", [GOOD, BAD], {"seconds": 3.5}, release.provenance(**parts)).markdown()
    assert page.startswith("# Tickets: 1 of 2 checks passed\n")
    for line in (
        "| size | yes | 9 bytes | at most 10 |",
        "| p\\|q | NO | 0.2 and more | 0.1 |",
        "| seconds | 3.5 |",
    ):
        assert line in page.splitlines()
    assert re.search(r"\| adapter · files · weights \| [0-9a-f]{64} \|", page)


def test_a_line_of_the_list_is_done_when_all_its_checks_are():
    def lines(*checks):
        return {line: (done, by) for line, done, by in Report("x", list(checks)).checklist().rows}

    stated, reached = release.threshold_first(1.0, 2.0), release.quality_reached(answers(9, 10), 0.8)
    first = next(iter(CHECKLIST))
    assert len(lines()) == 9 and set(lines().values()) == {("NO", "not checked")}
    assert lines(stated)[first] == ("NO", "1 of 1 checks")  # the other is lacking
    assert lines(stated, reached)[first] == ("yes", "2 of 2 checks")
    assert lines(stated, release.quality_reached(answers(1, 10), 0.8))[first] == ("NO", "1 of 2 checks")


def test_every_check_can_be_written(tmp_path):
    (tmp_path / "a.safetensors").touch()
    outputs = torch.tensor([[-0.1, -2.4]])
    checks = [
        release.threshold_first(1.0, 2.0),
        release.quality_reached(answers(9, 10), 0.8),
        release.better_than("a coin", answers(9, 10), answers(5, 10)),
        release.validation_holds(answers(9, 10), answers(8, 10)),
        release.full_fine_tuning_answered(answers(9, 10), 0.8),
        release.no_regression("mood", answers(9, 10), answers(9, 10)),
        release.text_kept([1.0, 2.0], [1.0, 2.1]),
        release.calibrated(*drawn(20)),
        release.no_leak(["a"], ["b"]),
        release.same_outputs("merged", outputs, outputs),
        release.kept_quality("4 bits", answers(9, 10), answers(9, 10)),
        release.latency("forward", [0.1], 1.0),
        release.size("adapter", tmp_path, 10),
        release.safetensors_only(tmp_path),
        release.refuses(int, {"a word": "seven"}),
        release.watch_tells(PredictionDrift([0, 1], labels=2), [0, 1], [1, 1]),
        release.unchanged(release.provenance(adapter=tmp_path)),
    ]
    assert all(type(check.passed) is bool for check in checks)
    Report("all", checks).write(tmp_path / "out")
    assert Report.read(tmp_path / "out").checks == checks
