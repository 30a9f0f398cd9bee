"""Is there a test that notices? Changes of one line to the library, each wrong, each with the tests that have to fail.

`python tests/mutations.py` tries all of them (some twenty minutes), `python tests/mutations.py warm-up TIES` those
whose names hold a word, and prints what was noticed. `make robust` tries them as tests (tests/robust/test_mutations.py).

Each change is made in a copy of the checkout, so nothing here is touched. A change counts as noticed where pytest ends
with 1, tests failed: neither with 0 nor with an error of collection. The old text has to stand exactly once in its file,
so that a change which the code has outgrown is a failure too: write it anew.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_HERE = "not (robust or model or notebook or browser or serving or slow)"


@dataclass(frozen=True)
class Mutation:
    """One wrong line: in `file` (below lessonlib) `old` becomes `new`, and one of `tests` (below tests) fails."""

    name: str
    file: str
    old: str
    new: str
    tests: str  # a path, and where it is long a word that chooses its tests behind a space

    def apply(self, root: Path) -> None:
        """Change the line below this root. Raises ValueError where the old text does not stand there exactly once."""
        path = root / "lessonlib" / self.file
        text = path.read_text("utf8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} holds {self.old!r} {count} times and not once: write this change anew")
        path.write_text(text.replace(self.old, self.new), "utf8")


TICKETS, PROMPTS, PARTS, CHAINS, MODELS = (
    f"experiments/test_records_{name}.py" for name in ("tickets", "prompts", "parts", "chains", "models")
)

RECORDS = [
    # 02 and 03: prompts
    Mutation("random labels are the right ones", "experiments/lesson02_in_context.py",
        "(text, WORDS[rng.integers(len(WORDS))]) for text, _ in", "(text, word) for text, word in",
        f"{PROMPTS} random_labels"),
    Mutation("a prompt is calibrated by the tickets", "experiments/lesson02_in_context.py",
        "scores[count:])", "scores[:count])", f"{PROMPTS} first_tickets"),
    Mutation("edge cases are the easy ones", "experiments/lesson03_examples.py",
        "for i in order[::-1] if labels[i] == 0", "for i in order if labels[i] == 0", f"{PROMPTS} edge_cases"),
    Mutation("every order is one order", "experiments/lesson03_prompts.py",
        "[drawn[i] for i in ORDERS[order]] if order", "drawn if order", f"{PROMPTS} cell"),
    Mutation("an order is not followed", "experiments/lesson03_prompts.py",
        '"none", [drawn[i] for i in order])', '"none", drawn)', f"{PROMPTS} order"),
    Mutation("every balance is two and two", "experiments/lesson03_prompts.py",
        "draw_examples(labels, seed)), split)", 'draw_examples("NNPP", seed)), split)', f"{PROMPTS} cell"),
    Mutation("similar examples: an empty text is scored", "experiments/lesson03_examples.py",
        "scores[:, -1].argmax(1)", "scores[:, 0].argmax(1)", f"{PROMPTS} similar"),
    Mutation("an answer that cannot be read is a class", "experiments/lesson03_answers.py",
        "-1 if label is None", "1 if label is None", f"{PROMPTS} word_by_itself"),
    Mutation("a prompt is judged on validation", "experiments/lesson03_learned.py",
        "asked = corpora.tickets(split)", 'asked = corpora.tickets("validation")', f"{TICKETS} tuning"),
    Mutation("a prefix starts from noise", "experiments/lesson03_learned.py",
        'if start == "text"', 'if start != "text"', f"{TICKETS} soft_prompt"),
    # 04: chains
    Mutation("the direct way shows nothing", "experiments/lesson04_reasoning.py",
        'shown = shown if way == "direct"', 'shown = shown if way != "direct"', f"{CHAINS} way_to_ask"),
    Mutation("chains are learnt on the test's problems", "experiments/lesson04_reasoning.py",
        'prompt_and_completion(problem, target) for problem in problems("train"', 'prompt_and_completion(problem, target) for problem in problems("test"',
        f"{CHAINS} tuned_model"),
    Mutation("the first sample has all votes", "experiments/lesson04_votes.py",
        "voted = [majority_vote(answers).answer for", "voted = [answers[0] for", f"{CHAINS} votes"),
    Mutation("the hands that are played are trained on", "experiments/lesson04_game_of_24.py",
        'random.Random(seed), hands("train")', 'random.Random(seed), hands("test")', f"{CHAINS} hand"),
    # 05: parts, tickets, subspaces
    Mutation("a pruned model is judged on training tickets", "experiments/lesson05_language_model.py",
        'corpora.tickets("test").select(range(TEXTS))', 'corpora.tickets("train").select(range(TEXTS))', f"{PARTS} pruned"),
    Mutation("the most important heads go", "experiments/lesson05_language_model.py",
        "weakest(recorded_importance(order)", "weakest(-recorded_importance(order)", f"{PARTS} heads"),
    Mutation("the layers of most influence go", "experiments/lesson05_language_model.py",
        "key=influence.__getitem__)[:count]", "key=influence.__getitem__)[-count:]", f"{PARTS} layers"),
    Mutation("both halves are the first", "experiments/lesson05_language_model.py",
        '("second half", range(half, texts))', '("second half", range(half))', f"{PARTS} either_half"),
    Mutation("weights go by another share", "experiments/lesson05_language_model.py",
        "without_small_weights(model, share)", "without_small_weights(model, share / 2)", f"{PARTS} smallest_weights"),
    Mutation("a rate is tried on what was learnt", "experiments/lesson05_lottery.py",
        "images, unseen = held_out(data)", "unseen, images = held_out(data)", f"{PARTS} held_out"),
    Mutation("the random mask has another start", "experiments/lesson05_lottery.py",
        "(start, shuffle(ticket.masks))", "(other_start, shuffle(ticket.masks))", f"{PARTS} winning"),
    Mutation("re-initialized from the same start", "experiments/lesson05_lottery.py",
        "(other_start, ticket.masks)", "(start, ticket.masks)", f"{PARTS} winning"),
    Mutation("by gradient is by size", "experiments/lesson05_lottery.py",
        "rounds, share, score=score)", "rounds, share)", f"{PARTS} by_gradient"),
    Mutation("across layers is layer by layer", "experiments/lesson05_lottery.py",
        "rounds, share, prune=global_masks)", "rounds, share)", f"{PARTS} across"),
    Mutation("a rewound ticket starts at the start", "experiments/lesson05_lottery.py",
        "rounds, share, network=network)", "rounds, share)", f"{PARTS} rewound"),
    Mutation("the first layers move, not the last", "experiments/lesson05_subspace.py",
        "range(model.config.num_hidden_layers - LAST, model.config.num_hidden_layers)", "range(LAST)",
        f"{TICKETS} last_layers"),
    Mutation("a step is longer in more dimensions", "experiments/lesson05_subspace.py",
        "rate / d**0.5", "rate", f"{TICKETS} dimensions"),
    # 06 and 07: adapters, LoRA
    Mutation("scored on training tickets", "experiments/tickets.py",
        'select(range(VALIDATION)), corpora.tickets("test")', 'select(range(VALIDATION)), corpora.tickets("train")',
        f"{TICKETS} houlsby"),
    Mutation("long tickets are short", "experiments/tickets.py",
        "if len(text) <= longest]", "if text]", f"{TICKETS} all_short"),
    Mutation("Pfeiffer's adapters are Houlsby's", "experiments/lesson06_adapters.py",
        "add_adapters_after_feed_forward(model, m)", "add_adapters(model, m)", f"{TICKETS} pfeiffer"),
    Mutation("ReLU is GELU", "experiments/lesson06_adapters.py", "F.relu(", "F.gelu(", f"{TICKETS} bottleneck"),
    Mutation("every start has one scale", "experiments/lesson06_adapters.py",
        "functools.partial(NearIdentity, std=std)", "NearIdentity", f"{TICKETS} at_random"),
    Mutation("norms and adapters are norms alone", "experiments/lesson06_adapters.py",
        "train_layer_norms(add_adapters(model, m))", "train_layer_norms(model)", f"{TICKETS} adapters_and_norms"),
    Mutation("the spectrum is that of the weights", "experiments/lesson07_ranks.py",
        "torch.linalg.svdvals(update)", "torch.linalg.svdvals(before[name + '.weight'])", f"{TICKETS} spectrum"),
    Mutation("the baseline's strength is the worst", "corpora/baselines.py",
        "return max(map(fitted, STRENGTHS)", "return min(map(fitted, STRENGTHS)", f"{TICKETS} baseline"),
    Mutation("the worst rate is tested", "experiments/lesson07_variants.py",
        "best is None or (tried.value, -loss) > best[:2]", "best is None or (tried.value, -loss) < best[:2]",
        f"{TICKETS} variants_rates"),
    Mutation("digits are learnt on those held out", "experiments/lesson07_variants.py",
        "(slice(HELD_OUT, None), slice(HELD_OUT))", "(slice(HELD_OUT), slice(HELD_OUT, None))", f"{TICKETS} digits"),
    Mutation("before is after", "experiments/lesson07_tasks.py",
        "_judged(task, merge_lora(model), tokenizer)", "(before, counted_before)", f"{CHAINS} place"),
    Mutation("looking up finds every fact", "experiments/lesson07_tasks.py",
        'nearest if finder == "words" else own', 'own if finder == "words" else nearest', f"{CHAINS} fact"),
    # 08: side by side
    Mutation("no label is wrong", "experiments/lesson08_gap.py",
        "with_label_noise(labels, 0.25, seed)\n", "labels\n", f"{TICKETS} quarter"),
    Mutation("another task is the same", "experiments/lesson08_gap.py",
        'return "urgency" if condition', 'return "intent" if condition', f"{TICKETS} another_task"),
    Mutation("elsewhere is on training tickets", "experiments/lesson08_methods.py",
        'for split in ("validation", "test")]', 'for split in ("train", "test")]', f"{PROMPTS} elsewhere"),
    Mutation("all is calibrated", "experiments/lesson08_methods.py",
        'if method == "calibrated" else tickets', 'if method != "calibrated" else tickets', f"{PROMPTS} prompted_way"),
    # 09 and 10: formats, distillation, experts
    Mutation("the divergence is reversed", "experiments/lesson09_qlora.py",
        "F.kl_div(after, before,", "F.kl_div(before, after,", f"{MODELS} divergence"),
    Mutation("QLoRA is over 16 bits", "experiments/lesson09_qlora.py",
        "_train(*load_four_bit(), QLoRALinear", "_train(*load_base(), LoRALinear", f"{TICKETS} qlora"),
    Mutation("the evenly chosen layers are the first", "experiments/lesson10_distillation.py",
        '"evenly": evenly_spaced', '"evenly": first_layers', f"{MODELS} untrained"),
    Mutation("a student's temperature is one", "experiments/lesson10_distillation.py",
        "T=T, weight=weight)", "T=1.0, weight=weight)", f"{MODELS} student"),
    Mutation("another expert weighs double", "experiments/lesson10_deployment.py",
        "merge_deltas(experts, [0.5, 0.25, 0.25])", "merge_deltas(experts, [0.25, 0.25, 0.5])", f"{MODELS} experts"),
    Mutation("an adapter is chosen by test tickets", "experiments/lesson10_deployment.py",
        'rows = corpora.tickets("validation").select(range(VALIDATION))', 'rows = corpora.tickets("test").select(range(VALIDATION))',
        f"{MODELS} one_adapter"),
    Mutation("nothing is stacked", "experiments/lesson10_deployment.py",
        "if stack or not index:", "if not index:", f"{MODELS} one_after_another"),
]  # fmt: skip

METHODS = [
    Mutation("LoRA merges without its scale", "lora/layer.py",
        "linear.weight += self.scale * self.B @ self.A", "linear.weight += self.B @ self.A", "lora/test_lora.py merg"),
    Mutation("no warm-up", "training/loop.py", "(step + 1) / (warmup + 1)", "(step + 1) / 1", "training/test_loop.py warm"),
    Mutation("another order statistic", "evaluation.py",
        "ratios[max(int(low) - 1, 0)]", "ratios[max(int(low), 0)]", "test_evaluation.py"),
    Mutation("labels see each other", "prompting/scoring.py",
        "(branch[:, None, :] == branch[:, :, None])", "(branch[:, None, :] >= 0)", "prompting/test_prompting.py"),
    Mutation("calibration by nothing", "prompting/calibration.py",
        "(p - p_cf.log())", "(p - 0 * p_cf.log())", "prompting/test_prompting.py calib"),
    Mutation("double quantization without its offset", "quantization/nf4.py",
        "values * second + self.offset", "values * second", "quantization/test_nf4.py"),
    Mutation("TIES is a mean over all", "lora/merging.py",
        "agree.sum(0).clamp(min=1)", "len(kept)", "lora/test_merging.py"),
    Mutation("distillation without T²", "training/distillation.py",
        "return T**2 * (log_p", "return (log_p", "training/test_distillation.py"),
    Mutation("LoRA+ has one rate", "lora/variants.py", '"lr": ratio * lr}', '"lr": lr}', "lora/test_lora_plus.py"),
    Mutation("the last layer loses as much", "pruning/masks.py",
        "amount / 2 if name == last", "amount if name == last", "pruning/test_pruning.py"),
    Mutation("the next token is this one", "pruning/language_model.py",
        "batch[:, 1:].flatten()", "batch[:, :-1].flatten()", "pruning/test_language_model.py perplexity"),
    Mutation("activations into the nonlinearity are narrow", "costs/activations.py",
        '"into the nonlinearity": e * N * d_ff', '"into the nonlinearity": e * N * d', "costs/test_memory.py"),
    Mutation("a wrong claim that agrees", "course/claims.py",
        'claim.verdict == "wrong"', 'claim.verdict == "never"', "course/test_claims.py"),
    Mutation("the memory gate is open", "course/session.py",
        'about["memory_gb"] + more, what', '0 * about["memory_gb"] + more, what', "course/test_session.py"),
    Mutation("99 per cent are 95", "runs.py", "level=0.99", "level=0.95", "test_runs.py band"),
]  # fmt: skip

SERVING = [
    Mutation("p may be nought", "serving/monitoring.py", "p = (1 + int(", "p = (int(", "serving/test_monitoring.py share_of_deals"),
    Mutation("the router picks the unlikeliest", "serving/routing.py",
        "return self(h).argmax(-1).tolist()", "return self(h).argmin(-1).tolist()", "serving/test_routing.py"),
]  # fmt: skip

# An axis, a scale, a point: what a picture shows wrongly.
DRAWN = "figures/test_drawn_data.py"
FIGURES = [
    Mutation("the rank sweep at half its height", "figures/lesson07.py",
        "[100 * m for m in means.values()], color=BLUE", "[50 * m for m in means.values()], color=BLUE", DRAWN),
    Mutation("sparsity on a linear axis", "figures/lesson05.py",
        "return -np.log2(1 - np.asarray(sparsity))", "return np.asarray(sparsity)", DRAWN),
    Mutation("the ticks of sparsity are linear", "figures/lesson05.py",
        "ax.set_xticks([-np.log2(1 - tick / 100) for tick in ticks]", "ax.set_xticks([tick / 50 for tick in ticks]", DRAWN),
    Mutation("an error on a linear axis", "figures/lesson02.py",
        'ylabel="mean squared error (log scale)", yscale="log")', 'ylabel="mean squared error (log scale)")', DRAWN),
    Mutation("bars of the wrong row", "figures/lesson01.py",
        "rows = np.arange(len(pairs))[::-1]", "rows = np.arange(len(pairs))", DRAWN),
    Mutation("stacked bars do not stack", "figures/lesson01.py", "left += value", "left = value", DRAWN),
    Mutation("dots beside their intervals", "figures/lesson07.py",
        "ax.plot([100 * answers.value], [row + offset], mark", "ax.plot([100 * answers.value], [row - offset], mark", DRAWN),
    Mutation("an interval ends at its mean", "figures/lesson08.py",
        "ax.hlines(row, 100 * low, 100 * high, color=BLUE, linewidth=2)",
        "ax.hlines(row, 100 * low, 100 * mean, color=BLUE, linewidth=2)", DRAWN),
    Mutation("before is drawn as after", "figures/lesson06.py",
        '(before[name], -0.16, GREY, "s")', '(after[name], -0.16, GREY, "s")', DRAWN),
    Mutation("every interval is the last one's", "figures/lesson04.py",
        "wilson_interval(*counts[name][steps]) for steps in by_steps",
        "wilson_interval(*counts[name][max(by_steps)]) for steps in by_steps", DRAWN),
    Mutation("a median for a mean", "figures/lesson03.py",
        "ax.plot([group.mean()] * 2, [row - 0.32", "ax.plot([np.median(group)] * 2, [row - 0.32", DRAWN),
    Mutation("a distance without its threshold", "figures/lesson10.py",
        "verdict.distance / max(verdict.threshold, 1e-12)", "verdict.distance", DRAWN),
    Mutation("weights on their side", "figures/lesson05.py", "ax.imshow(grid.T, cmap", "ax.imshow(grid, cmap", DRAWN),
    Mutation("light for dark", "figures/playground.py",
        "ends = (255, 255, 255), (0, 60, 120)", "ends = (0, 60, 120), (255, 255, 255)", DRAWN),
]  # fmt: skip

MUTATIONS = [*RECORDS, *METHODS, *SERVING, *FIGURES]


# --- trying them -------------------------------------------------------------------------------------------------------


def copied(directory: Path) -> Path:
    """The checkout's library, tools and tests below a directory, with links to what no change touches."""
    for name in ("lessonlib", "tools", "tests"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and not (directory / path.name).exists():
            (directory / path.name).symlink_to(path)
    return directory


def tested(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run pytest in a copy of the checkout, on the copy's library."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", "-m", NOT_HERE]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def missed(mutation: Mutation) -> str:
    """Make the change in a copy and run its tests: "" where they fail, else what happened in place of it."""
    path, _, word = mutation.tests.partition(" ")
    with tempfile.TemporaryDirectory() as directory:
        root = copied(Path(directory))
        mutation.apply(root)
        run = tested(root, f"tests/{path}", *(["-k", word] if word else []))
    if run.returncode == 1:
        return ""
    ended = {0: "no test noticed", 5: "no test was chosen"}.get(run.returncode, "pytest could not run")
    return f"{ended}: {mutation.tests} (pytest ended with {run.returncode})\n{run.stdout[-2000:]}{run.stderr[-1000:]}"


def unchanged(mutations: Sequence[Mutation]) -> str:
    """Run the files of all these tests in an unchanged copy: "" where they pass, else what pytest said."""
    paths = sorted({f"tests/{mutation.tests.partition(' ')[0]}" for mutation in mutations})
    with tempfile.TemporaryDirectory() as directory:
        run = tested(copied(Path(directory)), *paths)
    return "" if run.returncode == 0 else run.stdout[-2000:] + run.stderr[-1000:]


def main(words: Sequence[str]) -> int:
    """Try the changes whose names hold one of the words, all for none; returns 1 where one is not noticed."""
    chosen = [m for m in MUTATIONS if not words or any(word.lower() in m.name.lower() for word in words)]
    if fault := unchanged(chosen):
        print(f"Without any change these tests do not pass, so nothing can be learnt from them:\n{fault}")
        return 1
    survivors = 0
    for mutation in chosen:
        fault = missed(mutation)
        survivors += bool(fault)
        print(f"{'SURVIVES' if fault else 'noticed':8}  {mutation.file:40}  {mutation.name}", flush=True)
        if fault:
            print(f"          {fault.splitlines()[0]}")
    print(f"{len(chosen) - survivors} of {len(chosen)} noticed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
