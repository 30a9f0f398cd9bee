"""A real vLLM server under load: base and four adapters mixed, beside the base alone; and more adapters than it holds.

    python benchmarks/serving.py [requests]

The adapters are trained for a few steps, each for a desk with two labels of its own, so that they differ by nats. Each
reply brings the log-probabilities of the label words: they must be nearer to PEFT's for the adapter that was asked than
to those of the four others. Then names by Zipf's law, sixteen of them, on a server that keeps six in memory and mixes
four: what was read from files, beside what a least-recently-used memory of six would do, and what a second server would
change. Exits 1 where a request was lost or answered by another adapter. Needs `make serve-env`.
"""

import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from lessonlib import corpora
from lessonlib.experiments.tickets import short_tickets, ticket_task
from lessonlib.lora import add_lora, save_lora
from lessonlib.models import find_base, load_base
from lessonlib.serving.engine import serving_python
from lessonlib.serving.traffic import WatchedEngine, by_adapter, hit_rate, in_turns, offer, replicas, zipf
from lessonlib.training import fit, seed_everything
from lessonlib.training.labels import label_logits

ADAPTERS = ("north", "east", "south", "west")
STEPS, R, CLIENTS = 14, 8, 16
PROMPTS, NEW_TOKENS = 40, 12
NAMES, IN_MEMORY, IN_BATCH = 16, 6, 4


@dataclass
class Answered:
    """A reply: log-probabilities of the labels (labels,), tokens written, and who says to have written them."""

    scores: torch.Tensor
    tokens: int
    model: str


def trained(directory: Path, desk: int) -> Path:
    """An adapter for a desk that knows two labels only, 2 desk and 2 desk + 1."""
    seed_everything(desk)
    model, tokenizer = load_base()
    add_lora(model, ("q_proj", "v_proj"), r=R, alpha=2 * R)
    task, (texts, targets) = ticket_task(tokenizer), short_tickets()
    own = [2 * desk + target % 2 for target in targets]
    fit(model, task.training_batches(texts, own, steps=STEPS, batch_size=8, seed=0), learning_rate=2e-3)
    return save_lora(model, directory)


@torch.no_grad()
def reference(directories: dict[str, Path], prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    """PEFT's log-probabilities among the labels for each name, (prompts, labels)."""
    from peft import PeftModel  # after lessonlib, which keeps what it imports quiet

    base, tokenizer = load_base()
    task, found = ticket_task(tokenizer), {}
    batches = [task.batch(prompts[i : i + 8], [0] * 8) for i in range(0, len(prompts), 8)]

    def scores(model):
        return torch.cat([label_logits(model.eval(), batch).float() for batch in batches]).log_softmax(-1)

    found["base"] = scores(base)
    for name, directory in directories.items():
        model = PeftModel.from_pretrained(base, directory)
        found[name] = scores(model)
        base = model.unload()
    return found


def ask(engine, label_ids: list[int], new_tokens: int, name: str, prompt: list[int]) -> Answered:
    """One request: a reply of so many tokens, with the labels' log-probabilities at its first one."""
    answer = engine.client.completions.create(
        model=name,
        prompt=prompt,
        max_tokens=new_tokens,
        temperature=0.0,
        logprobs=len(label_ids),
        extra_body={
            "logprob_token_ids": label_ids,
            "return_tokens_as_token_ids": True,
            "ignore_eos": True,
        },
    )
    row = answer.choices[0].logprobs.top_logprobs[0]
    scores = torch.tensor([row[f"token_id:{token}"] for token in label_ids]).log_softmax(-1)
    return Answered(scores, answer.usage.completion_tokens, answer.model)


def judged(load, places: list[int], known: dict[str, torch.Tensor], weights=lambda name: name) -> tuple[int, float]:
    """Answers whose log-probabilities are nearer to another's than to those of the adapter that was asked; and the
    largest distance of any answer from its own, in nats (mean over the labels)."""
    count, largest = 0, 0.0
    for answer, place in zip(load.answers, places, strict=True):
        if answer.error is None:
            away = {
                name: (scores[place] - answer.result.scores).abs().mean().item() for name, scores in known.items()
            }
            own = weights(answer.name)
            count += min(away, key=away.get) != own or answer.result.model != answer.name
            largest = max(largest, away[own])
    return count, largest


def apart(known: dict[str, torch.Tensor]) -> float:
    """The smallest mean difference between two of the five on any one prompt, in nats."""
    names = list(known)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    return min((known[a] - known[b]).abs().mean(-1).min().item() for a, b in pairs)


def report(what: str, load, judgement: tuple[int, float]) -> bool:
    """Print a line; whether nothing was lost and nothing came from the wrong adapter."""
    wrong, away = judgement
    print(f"{what}: {load} · {wrong} by the wrong adapter, at most {away:.2f} nats from PEFT's", flush=True)
    for answer in load.failures[:3]:
        print(f"    LOST: {answer.name}: {answer.error}")
    return not load.failures and not wrong


def mixed_beside_base(engine, call, prompts, known, requests: int) -> bool:
    """Base alone and all five mixed, in turns, so that a busy moment falls on both."""
    five, well = ("base", *ADAPTERS), True
    for i in range(2):
        places = [(i * requests // 2 + j) % len(prompts) for j in range(requests // 2)]
        for what, names in (("base alone", ["base"]), ("base and 4 adapters", five)):
            asked = [(names[(j + j // PROMPTS) % len(names)], prompts[place]) for j, place in enumerate(places)]
            load = offer(call, asked, CLIENTS)
            well &= report(f"{what}, {CLIENTS} clients", load, judged(load, places, known))
    return well


def zipf_traffic(engine, call, prompts, known, directories, requests: int) -> bool:
    """More adapters than the server holds, asked for by Zipf's law, by one client and by many."""
    names = [f"customer-{i}" for i in range(NAMES)]
    homes = {name: ADAPTERS[i % len(ADAPTERS)] for i, name in enumerate(names)}
    for name in ADAPTERS:
        engine.unload(name)
    for name in names:
        engine.load(name, directories[homes[name]])
    trace, well = [names[i] for i in zipf(NAMES, requests, seed=0)], True
    places = [j % len(prompts) for j in range(requests)]
    asked = [(name, prompts[place]) for name, place in zip(trace, places, strict=True)]
    warm = names[-IN_MEMORY:]  # those that were loaded last are in memory when the first request comes
    ideal = (hit_rate([*warm, *trace], IN_MEMORY) * (requests + len(warm))) / requests
    print(f"{NAMES} adapters by Zipf's law, {IN_MEMORY} in memory, {IN_BATCH} in a batch; by LRU {ideal:.2f} hit")
    for clients in (1, CLIENTS):
        before = engine.swaps()
        load = offer(call, asked, clients)
        swaps = engine.swaps() - before
        well &= report(f"{clients} clients", load, judged(load, places, known, homes.get))
        print(f"    hit {1 - swaps['read'] / requests:.2f}: {dict(swaps)}")
    print(f"    one server, empty at first: {replicas(trace, IN_MEMORY, n=1)}")
    for what, split in (("in turns", in_turns), ("by adapter", by_adapter)):
        print(f"    a second one, {what}: {replicas(trace, IN_MEMORY, of=split)}")
    return well


def main(requests: int = 200) -> int:
    if serving_python() is None:
        print("Not measured: there is no vLLM here. Run `make serve-env`, then this again.")
        return 0
    with tempfile.TemporaryDirectory() as place:
        directories = {name: trained(Path(place, name), i) for i, name in enumerate(ADAPTERS)}
        task = ticket_task(load_base()[1])
        prompts = [task.encode(text) for text in corpora.tickets("test")["text"][:PROMPTS]]
        known = reference(directories, prompts)
        print(f"the five differ by at least {apart(known):.2f} nats on each of {PROMPTS} prompts", flush=True)
        settings = {
            "max_loras": IN_BATCH,
            "max_cpu_loras": IN_MEMORY,
            "max_lora_rank": R,
            "max_num_seqs": CLIENTS,
        }
        with WatchedEngine(find_base(), directories, **settings) as engine:
            label_ids = task.label_ids.tolist()
            offer(partial(ask, engine, label_ids, 2), [("base", prompts[0])] * 8, 4)  # the first are slower
            well = mixed_beside_base(engine, partial(ask, engine, label_ids, NEW_TOKENS), prompts, known, requests)
            well &= zipf_traffic(engine, partial(ask, engine, label_ids, 4), prompts, known, directories, requests)
    return int(not well)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
