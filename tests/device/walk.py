"""A notebook's cells one by one on the pretended device, over a tiny model and two steps of each training; an error is
kept, and the walk goes on.

python walk.py 09 float16 [situation]: {"cells": how many ran, "errors": [place and error of each]}, as JSON. What a cell asserts
itself, and what it expects of accuracies, is of the real model and not judged here.

Situations: "as it comes"; "another base", a model of another kind and shape given to `start`; "four bits only", where no
model fits in 16 bits.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS, TOKENS = 2, 24
SHAPE = {
    "num_hidden_layers": 11,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# As large a model as the course's is not needed to see what was written for that one only.
ANOTHER = {
    "num_hidden_layers": 17,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
# Notebooks name some layers and heads by number.
PARTS = {
    "05": {"num_hidden_layers": 30, "hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3},
    "08": {"num_hidden_layers": 16},
}


def tiny_cache(notebook: str) -> Path:
    """A cache whose base model is a tiny one with the course's own tokenizer, checked like the real one."""
    from tiny_models import tiny_model

    from lessonlib.models import MANIFEST, find_base, sha256

    real = find_base()
    cache = Path(tempfile.mkdtemp())
    directory = cache / "models" / real.name
    words = json.loads((real / "config.json").read_text("utf8"))
    shape = SHAPE | PARTS.get(notebook, {})
    shape |= {"vocab_size": words["vocab_size"], "max_position_embeddings": 2048}
    ends = {name: words[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in words}
    tiny_model(**shape, **ends, tie_word_embeddings=True).bfloat16().save_pretrained(directory)
    for file in real.iterdir():
        if file.name not in ("config.json", MANIFEST) and file.suffix != ".safetensors":
            shutil.copy(file, directory)
    files = {path.name: sha256(path) for path in directory.iterdir()}
    (directory / MANIFEST).write_text(json.dumps({"gguf_sha256": "", "files": files}), "utf8")
    return cache


def another_base() -> Path:
    """A directory with a tiny model as the course's larger ones are made: Qwen2's kind, of a shape of its own."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from lessonlib.models import load_tokenizer

    tokenizer, directory = load_tokenizer(), Path(tempfile.mkdtemp())
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(**ANOTHER, **ends, vocab_size=len(tokenizer), tie_word_embeddings=True)
    Qwen2ForCausalLM(config).bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def four_bits_only() -> None:
    """No model fits in 16 bits, and one that is loaded so is an error."""
    from lessonlib import models
    from lessonlib.course import session

    def too_large(name=models.DEFAULT, *_, **__):
        raise MemoryError(f"{name} was loaded in 16 bits")

    session.Session.fits = lambda self, dtype: False
    models.load_base = models.base.load_base = too_large


def shorten() -> None:
    """Two steps of each training, and nothing judged; the larger model of "On your GPU" is the tiny one as well."""
    from lessonlib import evaluation
    from lessonlib.course import claims, larger, session
    from lessonlib.networks import mlp
    from lessonlib.training import completions, loop
    from lessonlib.training.labels import LabelTask

    begin, learn, settle, task = loop.Steps.__init__, mlp.learn, claims.settle, LabelTask.__init__
    training, completing = LabelTask.training_batches, completions.completion_batches

    def only_two(self, model, batches, **settings):
        begin(self, model, batches[:STEPS], **settings)

    def of_few_words(self, *args, **settings):
        task(self, *args, **settings)
        self.max_tokens = min(self.max_tokens, TOKENS)

    def settled(*args, **kwargs):
        try:
            return settle(*args, **kwargs)
        except (AssertionError, ValueError):  # another verdict than the ledger's
            return None

    once = lambda functions, rounds=1, warmup=0: paired_times(functions, rounds=1, warmup=0)  # noqa: E731
    paired_times, evaluation.paired_times = evaluation.paired_times, once
    loop.Steps.__init__, LabelTask.__init__ = only_two, of_few_words
    LabelTask.training_batches = lambda self, *args, **settings: training(self, *args, **settings | {"steps": STEPS})
    completions.completion_batches = lambda *args, **settings: completing(*args, **settings)[:STEPS]
    mlp.learn = lambda *args, **settings: learn(*args, **settings | {"steps": STEPS})
    claims.settle = settled
    session.Session.expect = lambda self, fact, what: bool(fact)
    larger.MODEL = "smollm2-135m"
    subprocess.run = run_elsewhere(subprocess.run)


def run_elsewhere(run):
    """`subprocess.run`; but two processes that train together are another test's."""

    def instead(words, *args, **kwargs):
        if "lessonlib.experiments.lesson09_distributed" not in list(map(str, words)):
            return run(words, *args, **kwargs)
        import torch
        from safetensors.torch import save_file

        output = Path(words[words.index("--output") + 1])
        output.mkdir(parents=True, exist_ok=True)
        save_file({"A": torch.ones(2)}, output / "adapter_model.safetensors")
        said = {"processes": 2 if "torch.distributed.run" in words else 1, "losses": [1.0, 0.9]}
        return subprocess.CompletedProcess(words, 0, json.dumps(said), "")

    return instead


def own_assertion(error: BaseException) -> bool:
    """Whether it is the cell itself that asserted, and not the library."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return (
        isinstance(error, AssertionError) and str(ROOT) not in last.filename and "site-packages" not in last.filename
    )


def told(number: int, heading: str, error: BaseException) -> str:
    places = [
        f"{Path(p.filename).name}:{p.lineno} {p.line}"
        for p in traceback.extract_tb(error.__traceback__)
        if "pretended.py" not in p.filename and "IPython" not in p.filename
    ]
    return "\n  ".join([f"code cell {number}, {heading!r}: {type(error).__name__}: {str(error)[:300]}", *places[-6:]])


def walk(path: Path, base: Path | None = None) -> dict:
    """Run all code cells of a notebook in one namespace, over another base model where one is given."""
    from IPython.core.interactiveshell import InteractiveShell

    shell, errors, heading, number, started = InteractiveShell.instance(), [], "", 0, 0
    os.chdir(path.parent)
    for cell in json.loads(path.read_text("utf8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = next((line for line in source.splitlines() if line.startswith("#")), heading)
        if cell["cell_type"] != "code":
            continue
        number += 1
        if base is not None:
            source, times = re.subn(r'\bstart\("(\d\d)"\)', rf'start("\1", model="{base}")', source)
            started += times
        began = time.perf_counter()
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            done = shell.run_cell(source)
        print(f"cell {number}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        error = done.error_before_exec or done.error_in_exec
        if error is not None and not own_assertion(error):
            errors.append(told(number, heading, error))
            print(errors[-1], file=sys.stderr, flush=True)
    assert base is None or started == 1, f"{path.name} starts {started} times"
    return {"cells": number, "errors": errors}


def main(notebook: str, dtype: str, situation: str = "as it comes") -> dict:
    from believing import believe

    os.environ["LESSONLIB_CACHE"] = str(tiny_cache(notebook))
    os.environ["LESSONLIB_SERVE_PYTHON"] = "nowhere"  # vLLM brings its own device; its tests are in tests/serving
    import torch

    torch.set_num_threads(1)
    believe(dtype)
    shorten()
    if situation == "four bits only":
        four_bits_only()
    (path,) = ROOT.glob(f"notebooks/{notebook}_*.ipynb")
    return walk(path, another_base() if situation == "another base" else None)


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        report = main(*sys.argv[1:])
    json.dump(report, sys.stdout)
