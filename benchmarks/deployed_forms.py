"""One tuned model in four forms: adapter beside its base, merged, merged and then in NF4, distilled into ten layers.

    python benchmarks/deployed_forms.py [rounds]

For each: bytes on disk; the cold start, from a new process that has imported its packages to the first answer; tokens a
second of one greedy text; and accuracy on the test tickets. Every measurement of time is a process of its own, and the
forms take turns. The adapter's bytes are its own file's beside the base's, which any number of adapters share.
Exits 1 where merging changes more than one answer in twenty, or where a form on disk is larger than the one before it.
"""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch

from lessonlib.corpora import tickets
from lessonlib.evaluation import accuracy
from lessonlib.experiments.lesson10_distillation import CHOICES, SOFT, TEACHER, chosen, tuned_teacher
from lessonlib.experiments.tickets import short_tickets, ticket_task
from lessonlib.lora import load_lora, save_lora, unmerge_lora
from lessonlib.models import find_base, load_base
from lessonlib.quantization.qlora import load_four_bit
from lessonlib.training import fit, seed_everything
from lessonlib.training.distillation import distillation_loss, with_fewer_layers
from lessonlib.training.labels import label_logits
from lessonlib.training.master_weights import MasterAdamW

FORMS = ("adapter beside its base", "merged", "merged, then NF4", "distilled")
NEW_TOKENS = 48


def write_forms(room: Path) -> None:
    """Train the tuned model and its student, and write all four forms below a directory."""
    model, tokenizer = tuned_teacher(0, **TEACHER)
    (run,) = (run for run in chosen("distilled", kept="first") if run.settings["seed"] == 0)
    student = with_fewer_layers(model, run.settings["layers"], CHOICES["first"])
    steps, batch_size = run.settings["steps"], run.settings["batch_size"]
    batches = ticket_task(tokenizer).training_batches(*short_tickets(), steps=steps, batch_size=batch_size, seed=0)
    seed_everything(0)
    loss = partial(distillation_loss, teacher=model, **SOFT)
    fit(student, batches, learning_rate=run.settings["learning_rate"], loss=loss, optimizer=MasterAdamW)
    _save(student, tokenizer, room / FORMS[3])
    _save(model, tokenizer, room / FORMS[1])
    save_lora(unmerge_lora(model), room / FORMS[0])
    in_codes, _ = load_four_bit(str(room / FORMS[1]))
    _save(in_codes, tokenizer, room / FORMS[2])


def _save(model, tokenizer, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def read_form(form: str, room: Path):
    """(model, tokenizer) of a form, as it lies on disk."""
    if form == FORMS[0]:
        model, tokenizer = load_base()
        return load_lora(model, room / form), tokenizer
    return (load_four_bit if "NF4" in form else load_base)(str(room / form))


@torch.no_grad()
def measure(form: str, room: Path, judged: bool) -> dict:
    """In a process of its own: seconds to the first answer, tokens a second, and the answers to the test tickets."""
    test, began = tickets("test"), time.perf_counter()
    model, tokenizer = read_form(form, room)
    task = ticket_task(tokenizer)
    label_logits(model, task.batch([task.encode(test["text"][0])], [0]))
    found = {"start": time.perf_counter() - began}
    ids = tokenizer("Dear customer, thank you for your message.", return_tensors="pt").input_ids
    began = time.perf_counter()
    model.generate(ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
    found["tokens_a_second"] = NEW_TOKENS / (time.perf_counter() - began)
    if judged:
        said = accuracy(model, task, test["text"], test["intent"])
        found |= {"answers": said.predictions, "accuracy": repr(said)}
    return found


def in_its_own_process(form: str, room: Path, judged: bool) -> dict:
    words = [sys.executable, __file__, form, str(room), str(int(judged))]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{form}: {done.stderr[-800:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def disk_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*.safetensors"))


def main(rounds: int = 5) -> int:
    with tempfile.TemporaryDirectory() as where:
        room = Path(where)
        write_forms(room)
        runs = {form: [] for form in FORMS}
        for number in range(rounds):
            for form in FORMS:
                runs[form].append(in_its_own_process(form, room, judged=number == 0))
        held = {form: disk_bytes(room / form) for form in FORMS}
        held[FORMS[0]] += disk_bytes(find_base())
    for form, found in runs.items():
        start, speed = (median(one[key] for one in found) for key in ("start", "tokens_a_second"))
        print(
            f"{form}: {held[form] / 1e6:.1f} MB on disk; cold start {start:.2f} s; {speed:.1f} tokens a second; "
            f"{found[0]['accuracy']}"
        )
    unmerged, merged = (runs[form][0]["answers"] for form in FORMS[:2])
    changed = sum(a != b for a, b in zip(unmerged, merged))
    print(f"merging in 16 bits changes {changed} of {len(merged)} answers; medians of {rounds} processes each")
    return int(changed > len(merged) / 20 or not held[FORMS[0]] > held[FORMS[1]] > held[FORMS[2]])


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), bool(int(sys.argv[3])))))
    else:
        sys.exit(main(*map(int, sys.argv[1:])))
