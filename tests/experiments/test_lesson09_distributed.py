"""Claims of lesson09_distributed and of lessonlib.training.parallel, with two real processes. References: one process with
the whole batch, and PEFT."""

import lessonlib  # noqa: F401  first of all: whoever imports transformers before it is not offline

# isort: split
import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import own_files
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import logits, tiny_model, tiny_tokenizer
from two_processes import adapted_tiny_model, doubled_batch

from lessonlib.afternoon.trials import read_task
from lessonlib.experiments import lesson09_distributed as script
from lessonlib.experiments.lesson09_distributed import main, ticket_batches
from lessonlib.lora import load_lora
from lessonlib.models import ModelFileError
from lessonlib.quantization.qlora import QLoRALinear, load_four_bit
from lessonlib.training.labels import label_loss
from lessonlib.training.parallel import LaunchError, share

pytestmark = pytest.mark.slow
STEPS = 6
close = torch.testing.assert_close


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a tiny base model whose matrices 64 divides; what the processes write goes there too."""
    path = tmp_path_factory.mktemp("together")
    tiny_model(hidden_size=128, intermediate_size=192, max_position_embeddings=256).save_pretrained(path / "base")
    tiny_tokenizer().save_pretrained(path / "base")
    return path


def options(place, output):
    settings = [
        "--base",
        place / "base",
        "--output",
        place / output,
        "--four-bit",
        "--steps",
        STEPS,
        "--lora-r",
        4,
    ]
    return [str(setting) for setting in settings]


def launch(place, output, *more, kill_after=0):
    """The script under torchrun with two processes; both keep what they wrote on stdout and stderr."""
    here = {"LESSONLIB_WORK": str(place / "work"), "LESSONLIB_DTYPE": "float32", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | here
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    watched = [str(Path(__file__).parents[1] / "two_processes.py"), str(place), str(kill_after)]
    return subprocess.run(
        command + watched + ["--processes", "2", *options(place, output), *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def whole(place):
    """Two processes, undisturbed."""
    return launch(place, "two")


@pytest.fixture(scope="module")
def result(whole):
    assert whole.returncode == 0, whole.stderr
    return json.loads(whole.stdout)


def one_process(place, output, *more):
    """What the same options give in one process, this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LESSONLIB_DTYPE", "float32")
        patch.setenv("LESSONLIB_WORK", str(place / "work"))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            main([*options(place, output), *more])
    return json.loads(said.getvalue())


@pytest.fixture(scope="module")
def alone(place):
    return one_process(place, "one")


# --- two processes are one with the whole batch -------------------------------------------------------------


def test_two_processes_run_and_say_so_in_one_line_and_nothing_else(result, whole):
    assert result["processes"] == 2
    assert len(whole.stdout.splitlines()) == 1
    assert whole.stderr == ""


def test_gradients_of_two_processes_are_those_of_one_with_the_doubled_batch(result, place):
    model = adapted_tiny_model()
    loss = label_loss(model, doubled_batch())
    loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad} | {"loss": loss.detach()}
    assert len(expected) == 2 * 2 * 2 + 1
    for file in ("0-0", "1-0", "0-1", "1-1"):
        close(torch.load(place / f"{file}.pt"), expected, atol=1e-6, rtol=1e-5)


def test_each_half_alone_has_another_gradient():
    whole, halves = doubled_batch(), []
    for rank in (0, 1):
        model = adapted_tiny_model()
        label_loss(model, share(whole, rank, 2)).backward()
        halves.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert (halves[0] - halves[1]).norm() > 0.5 * halves[0].norm()


def test_losses_of_two_processes_are_those_of_one(result, alone):
    assert (alone["processes"], len(alone["losses"])) == (1, STEPS)
    assert result["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert len(set(result["losses"])) == STEPS


def test_the_adapter_of_two_processes_is_that_of_one_and_loads_in_peft(result, alone, place, tiny_tokens):
    def base():
        return load_four_bit(source=place / "base", dtype=torch.float32)[0]

    theirs = PeftModel.from_pretrained(base(), place / "two")
    close(logits(theirs, tiny_tokens), logits(load_lora(base(), place / "two", QLoRALinear), tiny_tokens))
    one = logits(load_lora(base(), place / "one", QLoRALinear), tiny_tokens)
    close(logits(theirs, tiny_tokens), one, atol=1e-3, rtol=0)
    assert (one - logits(base(), tiny_tokens)).abs().max() > 0.02


def test_a_run_killed_in_the_middle_resumes_to_the_same_losses(result, place):
    assert launch(place, "killed", kill_after=3).returncode != 0
    assert not (place / "killed").exists()
    assert len(list((place / "work" / "unfinished").iterdir())) == 1
    again = json.loads(launch(place, "killed").stdout)
    assert (again["resumed_at"], again["losses"]) == (3, result["losses"])
    assert (place / "killed" / "adapter_model.safetensors").exists()
    assert list((place / "work" / "unfinished").iterdir()) == []


# --- a file of one's own, less memory -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(place):
    """The options for a file of a person's own: 60 texts of three classes, 42 of them to train on."""
    file = own_files.write(place / "mine.csv", own_files.ROWS)
    return ["--data", str(file), "--text", "body", "--label", "topic", "--targets", "q_proj,down_proj"]


def test_two_processes_in_pieces_that_compute_again_learn_from_an_own_file_what_one_learns_at_once(place, own):
    done = launch(place, "own-two", *own, "--accumulate", "2", "--checkpointing")
    assert done.returncode == 0, done.stderr
    two, one = json.loads(done.stdout), one_process(place, "own-one", *own)
    assert (two["processes"], one["processes"], len(two["losses"])) == (2, 1, STEPS)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["n"] == one["n"] == 9 and two["interval"][0] <= two["accuracy"] <= two["interval"][1]
    ours, theirs = (load_file(place / name / "adapter_model.safetensors") for name in ("own-two", "own-one"))
    assert ours.keys() == theirs.keys() and len(ours) == 2 * 2 * 2
    for name, tensor in ours.items():
        close(tensor, theirs[name], atol=1e-3, rtol=0)


def test_beside_an_adapter_of_an_own_file_stand_its_prompt_and_its_splits(place, own):
    one_process(place, "own", *own)
    task = read_task(tiny_tokenizer(), place / "own")
    assert (task.labels, task.template) == (sorted(own_files.CLASSES), "Text: {text}\nLabel:")
    sides = {path.stem: len(path.read_text("utf8").splitlines()) - 1 for path in (place / "own" / "splits").iterdir()}
    assert sides == {"train": 42, "validation": 9, "test": 9}


def test_activations_are_computed_again_where_that_is_asked_for(tiny, tiny_tokens):
    script.recompute_activations(tiny)
    calls = []
    tiny.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    tiny.train()(tiny_tokens).logits.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--data", "nowhere.csv", "nowhere.csv: there is no such file"),
        ("--base", "wrong/", "could not be had from the Hub"),
        ("--targets", "c_attn", "no module is called 'c_attn'; the linear ones are"),
        ("--accumulate", "3", "1 process in 3 pieces each cannot share a batch of 8 evenly"),
        ("--accumulate", "0", "1 process in 0 pieces each cannot share a batch of 8 evenly"),
        ("--steps", "0", "--steps 0: give a whole number from 1"),
        ("--max-tokens", "-5", "--max-tokens -5: give a whole number from 1"),
        ("--lora-r", "0", "--lora-r 0: give a whole number from 1"),
        ("--processes", "-1", "--processes -1: give a whole number from 1"),
        ("--seed", "-1", "--seed -1: give a whole number from 0 to 4294967295"),
        ("--learning-rate", "nan", "--learning-rate nan: give a number above 0"),
        ("--learning-rate", "0", "--learning-rate 0.0: give a number above 0"),
        ("--learning-rate", "inf", "--learning-rate inf: give a number above 0"),
        ("--data", "/", "/"),
        ("--output", "/dev/null/below", "--output /dev/null/below: /dev/null is a file; give a directory"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(place, option, value, said, monkeypatch, capsys):
    def no_network(repository):
        raise ModelFileError(f"{repository} is no directory here and could not be had from the Hub")

    monkeypatch.setattr("lessonlib.models.base._from_hub", no_network)
    with pytest.raises(SystemExit, match="2"):
        main([*options(place, "nowhere"), option, value])
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (place / "nowhere").exists()


# --- launches ---------------------------------------------------------------------------------------------


def test_every_batch_is_whole_over_more_than_an_epoch():
    batches = ticket_batches(tiny_tokenizer(), steps=120, batch_size=8, seed=0)  # 393 short tickets
    assert {len(batch.last) for batch in batches} == {8}


@pytest.mark.parametrize(("asked", "started"), [(2, 1), (1, 2), (4, 2)])
def test_another_number_of_processes_than_asked_for_is_refused_before_anything_else(
    asked, started, monkeypatch, capsys
):
    monkeypatch.setenv("WORLD_SIZE", str(started))
    monkeypatch.setattr(script, "adapted", lambda *options: pytest.fail("it went on"))
    with pytest.raises(SystemExit, match="2"):
        main(["--output", "nowhere", "--processes", str(asked)])
    said = capsys.readouterr().err
    assert f"{asked} processes were asked for and {started}" in said
    assert f"torchrun --standalone --nproc_per_node {asked}" in said


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(script, "join", lambda asked: 2)
    with pytest.raises(SystemExit, match="2"):
        main(["--output", "nowhere", "--batch-size", "7"])
    assert "2 processes cannot share a batch of 7 evenly: take a batch size that is a multiple of 2" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("batch_size", [0, -4, 394])
def test_a_batch_size_that_cannot_be_is_refused_with_its_value(batch_size):
    with pytest.raises(LaunchError, match=rf"batch size {batch_size}: expected 1 to 393"):
        ticket_batches(tiny_tokenizer(), steps=1, batch_size=batch_size, seed=0)
