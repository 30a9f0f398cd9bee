"""Claims of lessonlib.course.session, and of `import lessonlib`."""

import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants

import lessonlib
from lessonlib import corpora, hardware, models
from lessonlib.course.session import Session, lessons, start
from lessonlib.hardware import NotEnoughMemory


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Two threads' worth of a CPU that multiplies bfloat16 four times as fast, with 21 GB free."""
    monkeypatch.delenv("LESSONLIB_DTYPE", raising=False)
    monkeypatch.setattr(hardware, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(hardware, "threads", lambda: 2)
    monkeypatch.setattr(hardware, "bfloat16_speed", lambda: 4.12)
    monkeypatch.setattr(hardware, "memory_gb", lambda on=None: 21.3)


def test_start_says_in_one_line_what_runs_here(capfd):
    session = start("07")
    minutes = lessons()["07"]["minutes"]
    assert capfd.readouterr() == (
        f"07 LoRA from scratch · CPU, 2 threads · bfloat16 (4.1 × as fast as float32) · 21 GB free · "
        f"about {minutes} minutes\n",
        "",
    )
    assert (session.dtype, session.minutes) == (torch.bfloat16, minutes)


def test_a_processor_without_fast_bfloat16_is_told_more_minutes(monkeypatch, capfd):
    monkeypatch.setattr(hardware, "bfloat16_speed", lambda: 0.5)
    assert start("07").dtype == torch.float32
    assert f"· float32 · 21 GB free · about {3.5 * lessons()['07']['minutes']:.0f} minutes" in capfd.readouterr().out


def test_there_are_ten_lessons_with_minutes_and_memory():
    assert list(lessons()) == [f"{number:02}" for number in range(1, 11)]
    assert all(about["title"] and about["minutes"] > 0 and about["memory_gb"] > 0 for about in lessons().values())


@pytest.mark.parametrize("unknown", ["7", "11", "lora", 7])
def test_an_unknown_lesson_is_refused_with_those_there_are(unknown, capfd):
    with pytest.raises(KeyError, match=rf"no lesson {unknown!r}; there are 01, 02, .*10"):
        start(unknown)
    assert capfd.readouterr().out == ""


def test_too_little_memory_is_refused_with_what_would_help(monkeypatch):
    monkeypatch.setattr(hardware, "memory_gb", lambda on=None: 1.24)
    needed = lessons()["07"]["memory_gb"]
    with pytest.raises(
        NotEnoughMemory, match=rf"lesson 07 needs {needed} GB and 1.2 GB are free: shut other kernels"
    ):
        start("07")


def test_every_start_leaves_the_same_random_numbers():
    start("07")
    first = torch.rand(5)
    start("07")
    assert torch.equal(torch.rand(5), first)


def test_the_probe_does_not_change_the_random_numbers(monkeypatch):
    draws = []
    for probe in (lambda: 4.12, lambda: float(torch.rand(3).sum()) + 2):
        monkeypatch.setattr(hardware, "bfloat16_speed", probe)
        start("07")
        draws.append(torch.rand(5))
    assert torch.equal(*draws)


# --- your own model and data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [(None, ("smollm2-135m", torch.bfloat16)), ("my/model", ("my/model", torch.bfloat16))],
)
def test_the_session_loads_the_base_model_or_your_own(monkeypatch, capfd, model, expected):
    monkeypatch.setattr(models, "load_base", lambda name, dtype: (name, dtype))
    assert start("07", model=model).load_base() == expected
    assert ("model my/model" in capfd.readouterr().out) is (model is not None)


@pytest.mark.parametrize(("dtype", "more"), [("bfloat16", 1.98), ("float32", 3.97)])
def test_a_larger_model_of_the_course_asks_for_the_memory_of_its_weights(monkeypatch, capfd, dtype, more):
    # By hand: two copies of 630 million weights in place of 134.5 million, of 2 or 4 bytes.
    monkeypatch.setenv("LESSONLIB_DTYPE", dtype)
    monkeypatch.setattr(models, "find_base", lambda name: name)
    needed = lessons()["07"]["memory_gb"] + more
    monkeypatch.setattr(hardware, "memory_gb", lambda on=None: needed + 0.1)
    assert start("07", model="qwen2.5-coder-0.5b").model == "qwen2.5-coder-0.5b"
    assert "model qwen2.5-coder-0.5b" in capfd.readouterr().out
    monkeypatch.setattr(hardware, "memory_gb", lambda on=None: needed - 0.1)
    expected = rf"lesson 07 with qwen2.5-coder-0.5b needs {needed:.3g} GB and .* are free: shut other kernels"
    with pytest.raises(NotEnoughMemory, match=expected):
        start("07", model="qwen2.5-coder-0.5b")


def test_a_larger_model_that_is_not_here_is_said_at_the_start(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(models.ModelFileError, match=r"qwen2.5-coder-1.5b is not here yet"):
        start("07", model="qwen2.5-coder-1.5b")


def test_one_weight_of_the_base_is_read_alone_in_the_dtype_of_the_session(monkeypatch, tiny, tiny_directory):
    monkeypatch.setattr(models, "load_base", lambda *_: pytest.fail("the whole model was loaded"))
    weight = start("09", model=tiny_directory).base_weight("model.layers.1.mlp.up_proj.weight")
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, tiny.model.layers[1].mlp.up_proj.weight.bfloat16())


@pytest.mark.parametrize(("dtype", "bytes_a_weight"), [(torch.bfloat16, 2), (torch.float32, 4)])
def test_a_model_fits_where_a_fifth_more_than_its_weights_is_free(
    monkeypatch, tiny, tiny_directory, dtype, bytes_a_weight
):
    session = start("09", model=tiny_directory)
    needed = 1.2 * bytes_a_weight * tiny.num_parameters() / 1e9
    monkeypatch.setattr(hardware, "memory_gb", lambda on=None: needed * 1.01)
    assert session.fits(dtype)
    monkeypatch.setattr(hardware, "memory_gb", lambda on=None: needed * 0.99)
    assert not session.fits(dtype)


@pytest.fixture
def own_file(tmp_path):
    rows = [f"this is text number {i},{label}" for i, label in enumerate(["good", "bad"] * 15)]
    (tmp_path / "own.csv").write_text("\n".join(["text,label", *rows]), "utf8")
    return tmp_path / "own.csv"


@pytest.mark.parametrize("read", [str, lambda path: path, corpora.from_csv])
def test_your_own_file_stands_where_tickets_stand(own_file, read):
    session = start("07", data=read(own_file))
    assert session.labels == ["bad", "good"]
    assert sum(len(session.tickets(split)) for split in corpora.SPLITS) == 30


def test_without_a_file_there_are_the_courses_tickets():
    session = start("07")
    assert session.labels == corpora.INTENTS
    theirs, ours = session.tickets("test"), corpora.tickets("test")
    assert theirs["text"] == ours["text"] and theirs["label"] == ours["intent"]


def test_a_session_says_what_it_took():
    session = Session("07", torch.device("cpu"), torch.float32, minutes=4.0)
    session.began -= 90
    assert session.took().startswith("1.5 minutes (expected 4), at most ")


# --- the package --------------------------------------------------------------------------------------------


def test_the_package_offers_start():
    assert lessonlib.start is start and lessonlib.Session is Session


def test_importing_the_library_goes_offline():
    code = "import lessonlib; from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
