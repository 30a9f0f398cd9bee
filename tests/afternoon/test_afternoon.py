"""Claims of lessonlib.afternoon: a file that nobody has seen becomes a tuned model with a report. On a tiny model."""

import csv
import json

import pytest
import torch
from own_files import CLASSES, ROWS, write
from tiny_models import filled, logits, tiny_model, tiny_tokenizer

from lessonlib import afternoon
from lessonlib.afternoon import AfternoonError, InputRefused, trials
from lessonlib.corpora import own
from lessonlib.evaluation import Accuracy
from lessonlib.lora import add_lora, load_lora
from lessonlib.serving import release
from lessonlib.serving.report import Report
from lessonlib.training.labels import LabelTask


@pytest.fixture
def mine(tmp_path):
    return write(tmp_path / "mine.csv", ROWS)


def read(path, **columns):
    return own.read(path, **({"text": "body", "label": "topic"} | columns))


# --- the question ----------------------------------------------------------------------------


def test_the_prompt_names_the_labels(tokenizer):
    task = afternoon.question(tokenizer, ["refund", "late_delivery", "praise {}"])
    assert task.template == "Labels: refund, late delivery, praise ().\nText: {text}\nLabel:"
    assert task.verbalizer == ["refund", "late delivery", "praise {}"]
    assert tokenizer.decode(task.encode("ein {Text}")).endswith("Text: ein {Text}\nLabel:")


def test_labels_that_begin_alike_are_said_whole(tokenizer):
    task = afternoon.question(tokenizer, ["class one", "class two"])
    assert task.verbalizer == ["class one", "class two"] and task.label_ids.dim() == 2
    assert task.template.startswith("Labels: class one, class two.\n")


def test_one_word_for_two_labels_is_refused(tokenizer):
    with pytest.raises(AfternoonError, match="the word 'late fee' stands for 2 labels"):
        afternoon.question(tokenizer, ["late_fee", "late fee"])


def test_a_long_text_loses_its_end_and_keeps_the_question(tokenizer):
    task = afternoon.question(tokenizer, CLASSES)
    ids = task.encode("parcel " * 500)
    assert len(ids) == task.max_tokens == 160 + len(tokenizer(task.template).input_ids)
    assert tokenizer.decode(ids).startswith("Labels: refund") and tokenizer.decode(ids).endswith("\nLabel:")


def test_answers_come_in_the_order_of_the_rows(tiny, tokenizer, mine):
    splits, task = own.split(read(mine)), afternoon.question(tokenizer, CLASSES)
    rows = splits["train"]
    all_at_once = afternoon.ask(tiny, task, rows)
    for place in (0, 7, 41):
        alone = afternoon.ask(tiny, task, rows.select([place]))
        torch.testing.assert_close(all_at_once.log_probs[place], alone.log_probs[0], rtol=1e-4, atol=1e-5)
        assert all_at_once.targets[place] == rows[place]["label"]
    torch.testing.assert_close(all_at_once.log_probs.exp().sum(-1), torch.ones(42))


def test_a_threshold_that_was_stated_stays(tmp_path):
    first = afternoon.state_threshold(tmp_path, 0.8)
    assert afternoon.state_threshold(tmp_path, 0.2) == first and first.value == 0.8


def test_baselines_by_hand(mine):
    scores = afternoon.baselines(own.split(read(mine)))
    assert scores["majority"].test.value == pytest.approx(1 / 3)
    assert scores["word counts"].test.value == 1.0  # no word stands in two classes


# --- the predictor -----------------------------------------------------------------------------------------------


def test_the_predictor_answers_as_the_batch_does(tiny, tokenizer, mine):
    rows, task = own.split(read(mine))["test"], LabelTask(tokenizer, CLASSES)
    answers, predictor = afternoon.ask(tiny, task, rows), afternoon.Predictor(tiny, task)
    label, sure = predictor(rows[0]["text"])
    assert label == CLASSES[answers.labels[0]]
    assert sure == pytest.approx(answers.log_probs[0].max().exp().item(), rel=1e-4)


def test_the_predictor_refuses_what_it_was_not_made_for(tiny, tokenizer):
    predictor = afternoon.Predictor(tiny, afternoon.question(tokenizer, CLASSES))
    assert release.refuses(predictor, afternoon.BAD_INPUTS, InputRefused).passed
    with pytest.raises(InputRefused, match=r"has 250,000 letters; at most 200,000 are taken: shorten it"):
        predictor("parc " * 50_000)


def test_the_predictor_reads_of_a_long_text_what_training_reads(tiny_long, tokenizer):
    task = afternoon.question(tokenizer, CLASSES)
    predictor, long = afternoon.Predictor(tiny_long, task), "parcel late " * 300
    assert tokenizer(predictor.prompt(long)).input_ids == task.encode(long)
    assert len(afternoon.answer_seconds(predictor, [long] * 3)) == 3
    answers = afternoon.ask(tiny_long, task, {"text": [long], "label": [0]})
    assert predictor(long)[1] == pytest.approx(answers.log_probs.max().exp().item(), rel=1e-4)


@pytest.fixture
def tiny_long():
    return tiny_model(max_position_embeddings=1024)


# --- the watch, and what a server answers ------------------------------------------------------------------------


def certain(labels, targets=None):
    log_probs = torch.full((len(labels), 3), -9.0)
    log_probs[range(len(labels)), labels] = 0.0
    return afternoon.Answers(log_probs.log_softmax(-1), list(targets or labels))


def test_the_stored_watch_is_the_armed_one(tmp_path):
    armed = afternoon.arm_watch(certain([0, 1, 2] * 20), CLASSES, tmp_path)
    stored = afternoon.read_watch(tmp_path)
    assert (armed.counts == stored.counts).all() and armed.level == stored.level == 0.01
    assert not stored([0, 1, 2] * 10).drifted and stored([2] * 30).drifted


def test_a_shifted_window_holds_half_the_classes():
    answers = certain([0, 0, 1, 1, 0, 2], targets=[0, 0, 0, 1, 1, 1])
    assert afternoon.shifted_window(answers) == [0, 0, 1]


def test_a_server_that_answers_with_the_base_is_found_out():
    tuned, base = certain([0, 1, 2] * 4).log_probs, certain([1, 2, 0] * 4).log_probs
    rounded = tuned + 0.05 * torch.randn(tuned.shape, generator=torch.Generator().manual_seed(0))
    assert afternoon.served_by_the_adapter(rounded, tuned, base).passed
    assert not afternoon.served_by_the_adapter(base, tuned, base).passed


class Server:
    """What an engine answers, computed here text by text; `broken` refuses every request."""

    def __init__(self, model, tokenizer, broken=False):
        self.model, self.tokenizer, self.broken, self.asked = model, tokenizer, broken, []

    def label_log_probs(self, name, prompts, labels):
        def one(prompt, label):
            context, whole = (self.tokenizer(text).input_ids for text in (prompt, prompt + label))
            log_probs = logits(self.model, torch.tensor([whole]))[0].log_softmax(-1)
            places = range(len(context), len(whole))
            return sum(log_probs[i - 1, whole[i]].item() for i in places)

        return torch.tensor([[one(prompt, label) for label in labels] for prompt in prompts])

    def complete(self, name, prompt, max_tokens):
        self.asked.append(name)
        if self.broken:
            raise RuntimeError("gone")
        return "refund"


@pytest.fixture
def asked(tiny, tokenizer, mine):
    """Rows, their predictor, and the answers of the base and of the model with an adapter."""
    rows, task = (
        own.split(read(mine))["test"],
        afternoon.question(tokenizer, ["refund", "delivery", "x y z"]),
    )
    base = afternoon.ask(tiny, task, rows)
    tuned = afternoon.ask(filled(add_lora(tiny, r=4)), task, rows)
    return rows, afternoon.Predictor(tiny, task), base, tuned


def test_a_server_with_the_adapter_passes(asked, tokenizer):
    rows, predictor, base, tuned = asked
    server = Server(predictor.model, tokenizer)
    checks = afternoon.load(server, predictor, rows, base, tuned, requests=12, clients=3)
    assert all(check.passed for check in checks), checks
    assert "9 of 9 answers the same; 0.00 nats from the adapter's" in checks[0].figure
    assert server.asked == ["afternoon"] * 12 and checks[1].figure.startswith("12 of 12 answered, 3 clients")


def test_a_server_scores_whole_labels_as_the_task_does(tiny, tokenizer, mine):
    rows, task = own.split(read(mine))["test"], afternoon.question(tokenizer, ["class one", "class two", "x"])
    answers = afternoon.ask(tiny, task, rows)
    other = afternoon.Answers(answers.log_probs.roll(1, 1), answers.targets)
    checks = afternoon.load(
        Server(tiny, tokenizer), afternoon.Predictor(tiny, task), rows, other, answers, requests=4
    )
    assert "9 of 9 answers the same; 0.00 nats from the adapter's" in checks[0].figure


def test_where_no_text_is_answered_the_lines_say_so(asked, tokenizer):
    _, predictor, base, tuned = asked
    rows = {"text": ["", "  "]}
    checks = afternoon.load(Server(predictor.model, tokenizer), predictor, rows, base, tuned)
    assert [check.passed for check in checks] == [False, False] and "none of the texts" in checks[0].figure
    assert not release.latency("one answer", [], 2.0).passed


def test_a_server_with_the_bare_base_fails(asked, tokenizer, make_tiny):
    rows, predictor, base, tuned = asked
    answered, under_load = afternoon.load(Server(make_tiny(), tokenizer, broken=True), predictor, rows, base, tuned)
    assert not answered.passed and "0.00 from the base's" in answered.figure
    assert not under_load.passed and under_load.figure.startswith("0 of 60")


# --- the whole afternoon ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A whole afternoon on a tiny model: its directory, its report, and the arguments of the run."""
    home = tmp_path_factory.mktemp("Ein Nachmittag – spät")
    tiny_model(max_position_embeddings=1024).save_pretrained(home / "base")
    tiny_tokenizer().save_pretrained(home / "base")
    file = write(home / "mine.csv", ROWS, delimiter=";")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LESSONLIB_DTYPE", "float32")
        patch.setenv("LESSONLIB_CACHE", str(home / "cache"))
        patch.setattr("lessonlib.serving.engine.serving_python", lambda: None)
        arguments = [str(file), "--text", "body", "--label", "topic", "--out", str(home / "out")]
        arguments += ["--model", str(home / "base"), "--steps", "30", "--merged"]
        assert afternoon.main(arguments) == 0
        yield home / "out", Report.read(home / "out"), arguments


def check(report, name):
    return next(check for check in report.checks if check.name == name)


@pytest.mark.slow
def test_an_afternoon_leaves_everything_in_its_directory(done):
    out, _, _ = done
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter", "afternoon.json", "merged", "report.json", "report.md", "splits", "threshold.json", "trials",
        "watch.json",
    ]  # fmt: skip
    assert {path.name for path in (out / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "task.json",
    }


def test_the_report_goes_through_the_whole_list(done):
    _, report, _ = done
    held = {c.name for c in report.checks if c.passed}
    sound = {
        "threshold stated first", "no test text in training", "adapter reloads", "base comes back",
        "merged equals unmerged", "safetensors only", "bad inputs refused", "one answer, merged",
        "hashes of base, adapter, data",
    }  # fmt: skip
    assert sound <= held, report
    assert len(report.checks) == 22


def test_every_line_of_the_list_is_checked(done):
    by = {line: by for line, _, by in done[1].checklist().rows}
    assert len(by) == 9 and "not checked" not in by.values()
    assert by["loaded and switched as in production"] == "2 of 3 checks"  # there is no engine


def test_without_an_engine_the_report_names_the_command(done):
    served = check(done[1], "served by the adapter")
    assert not served.passed and "make serve-env" in served.figure


def test_the_best_baseline_is_the_threshold_unless_one_is_given(done):
    # Word counts know every word of these texts, so they are right on all validation texts.
    assert json.loads((done[0] / "threshold.json").read_text("utf8"))["value"] == 1.0


def test_the_saved_adapter_answers_as_the_report_says(done):
    out, report, _ = done
    model, tokenizer = tiny_model(max_position_embeddings=1024), tiny_tokenizer()
    task = afternoon.read_task(tokenizer, out / "adapter")
    with (out / "splits" / "test.csv").open(encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    predictor = afternoon.Predictor(load_lora(model, out / "adapter"), task)
    said = [CLASSES.index(predictor(row["text"])[0]) for row in rows]
    assert str(Accuracy(said, [CLASSES.index(row["label"]) for row in rows])) == report.facts["tuned, test"]


def test_the_rate_that_won_on_validation_is_served(done):
    out, report, _ = done
    trials = [json.loads(path.read_text("utf8")) for path in sorted((out / "trials").glob("*/trial.json"))]
    assert len(trials) == 2
    best = max(trials, key=lambda trial: (trial["validation"], -trial["validation_loss"]))
    assert report.facts["learning rate chosen"] == best["learning_rate"]


def test_an_afternoon_is_taken_up_where_it_stood(done, monkeypatch, capsys):
    out, report, arguments = done

    def no_training(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(trials, "fit", no_training)
    assert afternoon.main(arguments) == 0
    again = Report.read(out)
    assert again.facts["tuned, test"] == report.facts["tuned, test"]
    assert check(again, "threshold stated first").passed
    assert "Taking up" in capsys.readouterr().out


def test_another_afternoons_directory_is_not_written_over(done, capsys):
    _, report, arguments = done
    assert afternoon.main([*arguments, "--steps", "31"]) == 2
    assert "holds an afternoon with another steps (30, now 31)" in capsys.readouterr().err
    assert Report.read(done[0]).title == report.title


def test_a_directory_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(AfternoonError, match="exists and is not an afternoon's"):
        afternoon.begin(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_bad_file_leaves_no_directory_behind(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_text("body,topic\n", "utf8")
    base = tmp_path / "base"
    tiny_model().save_pretrained(base)
    arguments = ["--text", "body", "--label", "topic", "--out", str(tmp_path / "out"), "--model", str(base)]
    assert afternoon.main([str(path), *arguments]) == 2
    assert "at least two classes" in capsys.readouterr().err and not (tmp_path / "out").exists()
