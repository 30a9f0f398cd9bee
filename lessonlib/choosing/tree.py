"""Which way to adapt a model: questions, answers and advice as data, and `recommend`, which walks them.

A question looks at one fact of a situation and has an answer for each value; behind an answer stands the next question
or the advice. The picture of the tree is drawn from the same `TREE`. Each piece of advice names what it rests on:
recorded runs of ours (by experiment and settings), published figures (by table, row and column), or counted bytes. All
of it can be asked again: `evidence.holds()` reads the runs and the tables anew.

Asked here is how to adapt a model, once it is clear that it has to be. New facts belong in the prompt (notebook 10).
"""

import math
import statistics
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from lessonlib.corpora.published import published
from lessonlib.costs import MASTER_WEIGHTS, FullFineTuning, LoRA, QLoRA, fits, training_memory
from lessonlib.display import Table
from lessonlib.runs import Run, load_runs

# --- what a rule rests on ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Recorded runs by their experiment and settings, and one number of each.

    measure: "accuracy", or the way to a number in the results: "answer_time.merged.0". Of runs that differ in
    their learning rate or number of examples, those count whose first seed was best on validation.
    """

    experiment: str
    settings: dict
    measure: str = "accuracy"

    def runs(self) -> list[Run]:
        """Raises LookupError where none is recorded."""
        found = load_runs(self.experiment, **self.settings)
        first = [run for run in found if run.settings.get("seed", 0) == 0] or found
        best = max(first, key=lambda run: run.results.get("validation", 0))
        dials = {"learning_rate", "shots"} & best.settings.keys()
        return [run for run in found if all(run.settings[dial] == best.settings[dial] for dial in dials)]

    def value(self) -> float:
        """The mean over the runs' seeds."""
        return statistics.mean(_number(run, self.measure) for run in self.runs())


def _number(run: Run, measure: str) -> float:
    if measure == "accuracy":
        return run.accuracy
    value = run.results
    for key in measure.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@dataclass(frozen=True)
class Measured:
    """Our own runs: `more` is at least `times` as much as `less`, and `by` more (in the measure's unit)."""

    says: str
    more: Row
    less: Row
    by: float = 0.0
    times: float = 1.0

    def holds(self) -> bool | None:
        """None where a run is not recorded."""
        try:
            return self.more.value() >= self.times * self.less.value() + self.by
        except LookupError:
            return None


@dataclass(frozen=True)
class Published:
    """A paper's table: the cell `more` (row, column) is above the cell `less` by at least `by`, in the table's unit."""

    says: str
    table: str
    more: tuple[str, str]
    less: tuple[str, str]
    by: float = 0.0

    def holds(self) -> bool:
        return published(self.table, *self.more) - published(self.table, *self.less) >= self.by


@dataclass(frozen=True)
class Counted:
    """Bytes of one training step on the meta device: `more` needs at least `times` what `less` needs."""

    says: str
    more: object
    less: object
    times: float
    base: str = "llama2-7b"

    def holds(self) -> bool:
        def total(method):
            precision = {"precision": MASTER_WEIGHTS} if method == FullFineTuning() else {}
            return training_memory(self.base, method, tokens=512, recompute=True, **precision).total

        return total(self.more) / total(self.less) >= self.times


# --- the parts of a tree -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """What to do, why, and what that rests on. methods: those of the head-to-head that it uses."""

    what: str
    why: str
    methods: tuple[str, ...]
    rests_on: tuple[Measured | Published | Counted, ...]


@dataclass(frozen=True)
class Answer:
    """The values that it stands for, and what follows."""

    label: str
    values: Container
    then: "Question | Advice"


@dataclass(frozen=True)
class Question:
    """asks: the fact of a situation that it looks at. rests_on: what its answers' limits rest on."""

    text: str
    asks: str
    answers: tuple[Answer, ...]
    rests_on: tuple[Measured | Published | Counted, ...] = ()

    def answer(self, value) -> Answer:
        """The answer that stands for a value."""
        return next(answer for answer in self.answers if value in answer.values)


ACCESS = ("text", "probabilities", "weights")
MEMORY = ("nothing", "4-bit LoRA", "LoRA", "full fine-tuning")  # the most that can be trained
LATENCY = ("strict", "relaxed")
MOST = 10**12  # no number of examples or tasks reaches it


@dataclass(frozen=True)
class Situation:
    """examples: labelled ones. access: what the model gives. memory: the most that can be trained, of `MEMORY`.
    far: a new language or skill for the base. latency: "strict" where no answer may take longer than the base's.
    tasks: how many one server has to know."""

    examples: int
    access: str = "weights"
    memory: str = "full fine-tuning"
    far: bool = False
    latency: str = "strict"
    tasks: int = 1

    def __post_init__(self):
        for name, least in (("examples", 0), ("tasks", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < MOST:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}")
        known = {"access": ACCESS, "memory": MEMORY, "far": (False, True), "latency": LATENCY}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(map(repr, values))}"
                )


# --- the rows ----------------------------------------------------------------------------------------------------------

ALL = 661  # training tickets
STEPS, LONGER = 40, 120  # of training in the head-to-head, and in its longer runs
FEW = 30  # examples from which training pays
NOISE = 0.03  # three points: less is not told apart by 200 tickets


def _trained(method: str, examples: int = ALL, measure: str = "accuracy", steps: int = STEPS) -> Row:
    return Row("head_to_head", {"method": method, "examples": examples, "steps": steps}, measure)


def _cost(method: str, measure: str) -> Row:
    return Row("what_it_costs", {"method": method}, measure)


def _prompted(method: str, measure: str = "accuracy") -> Row:
    return Row("head_to_head_prompts", {"method": method}, measure)


def _shots(shots: int, measure: str = "accuracy") -> Row:
    form = {"form": "message, topics named", "split": "test", "count": 200}
    return Row("few_shot", {"shots": shots, **form}, measure)


SUPERGLUE = "SuperGLUE average"
NAMING_HELPS = Measured(
    "an answer is likelier right where the prompt says what there is to choose from",
    Row("few_shot", {"shots": 0, "form": "message, topics named", "split": "validation"}),
    Row("few_shot", {"shots": 0, "form": "message", "split": "validation"}),
)
CALIBRATION_HELPS = Measured("calibrated answers are better", _shots(1, "calibrated"), _shots(1), by=0.1)
EXAMPLES_HELP = Published(
    "examples in the prompt help a large model",
    "brown2020_tableH1",
    (SUPERGLUE, "few-shot 175B"),
    (SUPERGLUE, "zero-shot 175B"),
    by=10,
)
TRAINING_PAYS = Measured(
    f"at {FEW} examples LoRA is ahead of the best prompt", _trained("LoRA", FEW), _prompted("calibrated")
)
TOO_FEW = Measured(
    "at 10 examples LoRA is hardly ahead of the best prompt",
    _prompted("calibrated"),
    _trained("LoRA", 10),
    by=-2 * NOISE,
)
FULL_IS_AHEAD = Measured(
    "on our 135M and 40 steps, full fine-tuning is ahead of LoRA",
    _trained("full fine-tuning"),
    _trained("LoRA"),
    by=NOISE,
)
FULL_STAYS_AHEAD = Measured(
    "full fine-tuning is still ahead after three times as many steps",
    _trained("full fine-tuning", steps=LONGER),
    _trained("LoRA", steps=LONGER),
    by=NOISE,
)


def _changed(condition: str, method: str) -> Row:
    return Row("gap", {"condition": condition, "method": method})


LEVEL_ON_ANOTHER_TASK = Measured(
    "on another question about the tickets LoRA is as good",
    _changed("another task", "LoRA"),
    _changed("another task", "full fine-tuning"),
    by=-NOISE,
)
AHEAD_WITH_FEW = Measured(
    f"at {FEW} examples LoRA is ahead of full fine-tuning",
    _trained("LoRA", FEW),
    _trained("full fine-tuning", FEW),
    by=NOISE,
)
FAR_OFF_HERE = Measured(
    "over a base with a third of its layers cut off, LoRA is far behind",
    _changed("a third of the base's layers gone", "full fine-tuning"),
    _changed("a third of the base's layers gone", "LoRA"),
    by=0.1,
)
AS_GOOD_ON_GPT3 = Published(
    "on GPT-3, LoRA was as good as full fine-tuning",
    "hu2021_table4",
    ("LoRA 37.7M", "WikiSQL"),
    ("FT", "WikiSQL"),
)
MERGED_IS_FREE = Measured(
    "merged, LoRA answers faster than unmerged",
    _cost("LoRA", "answer_time.as trained.0"),
    _cost("LoRA", "answer_time.merged.0"),
)
SMALL_FILES = Measured(
    "LoRA's file is a fiftieth of the base, or less",
    _trained("full fine-tuning", measure="trainable"),
    _trained("LoRA", measure="trainable"),
    times=50,
)
LEARNS_LESS_FAR_OFF = Published(
    "on code, full fine-tuning learns more than LoRA of rank 256",
    "biderman2024_section4_1",
    ("code CPT full fine-tuning, 20B tokens", "HumanEval"),
    ("code CPT LoRA r=256, 20B tokens", "HumanEval"),
    by=0.03,
)
RANK_HELPS_FAR_OFF = Published(
    "on code, rank 256 is far ahead of rank 16",
    "biderman2024_section4_1",
    ("code IFT LoRA r=256, epoch 4", "HumanEval"),
    ("code IFT LoRA r=16, epoch 4", "HumanEval"),
    by=0.1,
)
FORGETS_LESS = Published(
    "LoRA forgets less of what the base could do",
    "biderman2024_section4_2",
    ("code CPT LoRA r=256, 20B tokens", "forgetting"),
    ("code CPT full fine-tuning, 20B tokens", "forgetting"),
    by=0.05,
)
LORA_NEEDS_LESS = Counted("LoRA trains in a fifth of the memory", FullFineTuning(), LoRA(r=16), times=5)
FOUR_BITS_NEED_LESS = Counted(
    "LoRA over 4-bit weights trains in half the memory", LoRA(r=16), QLoRA(r=16), times=2
)
FOUR_BITS_ARE_AS_GOOD = Published(
    "a 4-bit base (NF4) trains as well as a 16-bit one",
    "dettmers2023_table4",
    ("NFloat4 + DQ", "mean"),
    ("BFloat16", "mean"),
    by=-0.5,
)

# --- the tree ----------------------------------------------------------------------------------------------------------

NONE, SOME = range(1), range(1, MOST)

PROMPT_ONLY = Question(
    "How many labelled examples are there?",
    "examples",
    (
        Answer(
            "none",
            NONE,
            Advice(
                "zero-shot: ask, and say what the answers may be",
                "Without probabilities nothing can be calibrated, without examples nothing compared.",
                ("zero-shot",),
                (NAMING_HELPS,),
            ),
        ),
        Answer(
            "some",
            SOME,
            Advice(
                "few-shot: examples in the prompt, held against zero-shot on some that you keep back",
                "A large model gains from examples; ours of 135M loses, so keep some back and look.",
                ("few-shot", "zero-shot"),
                (EXAMPLES_HELP,),
            ),
        ),
    ),
)

CALIBRATED = Question(
    "How many labelled examples are there?",
    "examples",
    (
        Answer(
            "none",
            NONE,
            Advice(
                "zero-shot, calibrated by inputs without content",
                "Calibration costs three more questions, and needs no example.",
                ("zero-shot", "calibrated"),
                (
                    Measured(
                        "calibrating a prompt without examples loses nothing here",
                        _shots(0, "calibrated"),
                        _shots(0),
                        by=0.0,
                    ),
                ),
            ),
        ),
        Answer(
            "some",
            SOME,
            Advice(
                "few-shot, calibrated",
                "A few examples shift all answers towards some labels; calibration takes the shift out.",
                ("few-shot", "calibrated"),
                (CALIBRATION_HELPS, EXAMPLES_HELP),
            ),
        ),
    ),
)


def _by_memory(everything: Advice, lora: Advice) -> Question:
    return Question(
        "What is the most that can be trained?",
        "memory",
        (Answer("all weights", ("full fine-tuning",), everything), Answer("LoRA", ("LoRA",), lora)),
    )


SERVED = Question(
    "How many tasks does one server have to know?",
    "tasks",
    (
        Answer(
            "one",
            range(1, 2),
            _by_memory(
                Advice(
                    "full fine-tuning with float32 masters, beside LoRA: keep what wins on validation",
                    "On our tickets' topics full fine-tuning won, with few of them LoRA: your own case decides.",
                    ("full fine-tuning", "LoRA"),
                    (FULL_IS_AHEAD, FULL_STAYS_AHEAD, AHEAD_WITH_FEW, LEVEL_ON_ANOTHER_TASK, AS_GOOD_ON_GPT3),
                ),
                Advice(
                    "LoRA on all linear layers, merged",
                    "It fits where training everything does not, and an answer takes as long as the base's.",
                    ("LoRA",),
                    (LORA_NEEDS_LESS, MERGED_IS_FREE, AS_GOOD_ON_GPT3),
                ),
            ),
        ),
        Answer(
            "several",
            range(2, MOST),
            Question(
                "May an answer take a little longer than the base's?",
                "latency",
                (
                    Answer(
                        "yes",
                        ("relaxed",),
                        Advice(
                            "LoRA, unmerged: one base, one small file a task",
                            "Files are swapped in no time, or mixed in one batch.",
                            ("LoRA",),
                            (SMALL_FILES, AS_GOOD_ON_GPT3),
                        ),
                    ),
                    Answer(
                        "no",
                        ("strict",),
                        Advice(
                            "LoRA, merged into a copy of the base for each task",
                            "As fast as the base; each task then costs the memory of a whole model.",
                            ("LoRA",),
                            (MERGED_IS_FREE, AS_GOOD_ON_GPT3),
                        ),
                    ),
                ),
            ),
        ),
    ),
)

FAR = Question(
    "Is it a new language or skill for the base?",
    "far",
    (
        Answer("no", (False,), SERVED),
        Answer(
            "yes",
            (True,),
            _by_memory(
                Advice(
                    "full fine-tuning, with float32 masters",
                    "Far from what the base knows, a low rank holds training back. Watch what is forgotten.",
                    ("full fine-tuning",),
                    (FAR_OFF_HERE, LEARNS_LESS_FAR_OFF, FORGETS_LESS),
                ),
                Advice(
                    "LoRA on all linear layers, of a high rank (64 to 256)",
                    "Far from what the base knows, rank counts.",
                    ("LoRA",),
                    (RANK_HELPS_FAR_OFF, FORGETS_LESS),
                ),
            ),
        ),
    ),
)

TRAINABLE = Question(
    "What is the most that can be trained?",
    "memory",
    (
        Answer(
            "nothing",
            ("nothing",),
            Advice(
                "a smaller base; until then few-shot, calibrated",
                "Not even LoRA over 4-bit weights fits. A smaller model that is trained may beat a larger one that is not.",
                ("few-shot", "calibrated"),
                (FOUR_BITS_NEED_LESS, CALIBRATION_HELPS),
            ),
        ),
        Answer(
            "4-bit LoRA",
            ("4-bit LoRA",),
            Advice(
                "QLoRA: LoRA over a base in 4 bits",
                "Half the memory of LoRA, and as good in its authors' hands; steps take longer.",
                ("LoRA",),
                (FOUR_BITS_NEED_LESS, FOUR_BITS_ARE_AS_GOOD),
            ),
        ),
        Answer("LoRA or more", ("LoRA", "full fine-tuning"), FAR),
    ),
    (LORA_NEEDS_LESS, FOUR_BITS_NEED_LESS),
)

TREE = Question(
    "What does the model give you?",
    "access",
    (
        Answer("text only", ("text",), PROMPT_ONLY),
        Answer("probabilities too", ("probabilities",), CALIBRATED),
        Answer(
            "its weights",
            ("weights",),
            Question(
                "How many labelled examples are there?",
                "examples",
                (
                    Answer(f"fewer than {FEW}", range(FEW), CALIBRATED),
                    Answer(f"{FEW} or more", range(FEW, MOST), TRAINABLE),
                ),
                (TRAINING_PAYS, TOO_FEW),
            ),
        ),
    ),
)

# Methods of the head-to-head that no advice uses, and why.
SET_ASIDE = {
    "prompt tuning": (
        Measured("LoRA is well ahead of prompt tuning", _trained("LoRA"), _trained("prompt tuning"), by=0.05),
    ),
    "prefix tuning": (
        Measured("LoRA is well ahead of prefix tuning", _trained("LoRA"), _trained("prefix tuning"), by=0.05),
    ),
    "adapter": (
        Measured(
            "LoRA is as good as an adapter, or nearly", _trained("LoRA"), _trained("adapter"), by=-NOISE
        ),
        Measured(
            "merged, LoRA answers faster than an adapter",
            _cost("adapter", "answer_time.as trained.0"),
            _cost("LoRA", "answer_time.merged.0"),
        ),
        Published(
            "one text at a time, an adapter took a fifth longer or more",
            "hu2021_table1",
            ("AdapterH", "1 x 128"),
            ("FT/LoRA", "1 x 128"),
            by=5,
        ),
    ),
}


# --- the function ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recommendation:
    """The advice, the situation, and the questions that led there with their answers."""

    advice: Advice
    situation: Situation
    path: tuple[tuple[Question, Answer], ...] = field(repr=False)

    def __repr__(self):
        marks = {True: "holds", False: "DOES NOT HOLD", None: "not recorded yet"}
        lines = [f"{self.advice.what}", f"  {self.advice.why}"]
        lines += [f"  · {question.text} {answer.label}" for question, answer in self.path]
        lines += [f"  – {one.says} ({marks[one.holds()]})" for one in self.advice.rests_on]
        return "\n".join(lines)


def recommend(
    examples: int,
    access: str = "weights",
    *,
    base="llama2-7b",
    gpu: str | float = "T4",
    far: bool = False,
    latency: str = "strict",
    tasks: int = 1,
    tokens: int = 512,
) -> Recommendation:
    """What to do with so many labelled examples.

    access: "text" where the model gives answers only, "probabilities" where it gives those of words too, "weights".
    base: anything that `costs.architecture` takes. gpu: a name of data/gpus.json, or gigabytes. far: a new language or
    skill for the base. latency: "strict" where no answer may take longer than the base's, else "relaxed".
    tasks: how many one server has to know. tokens: of a training text.

    Raises ValueError that names the value, and what `costs.fits` raises for an unknown base or GPU.

    >>> recommend(500, base="llama2-13b", gpu="T4").advice.what
    'QLoRA: LoRA over a base in 4 bits'
    >>> recommend(500, base="llama2-7b", gpu=80.0, tasks=40, latency="relaxed").advice.what
    'LoRA, unmerged: one base, one small file a task'
    """
    memory = trainable(base, gpu, tokens) if access == "weights" else "nothing"
    return decide(Situation(examples, access, memory, far, latency, tasks))


def decide(situation: Situation) -> Recommendation:
    """Walk the tree."""
    node, path = TREE, []
    while isinstance(node, Question):
        answer = node.answer(getattr(situation, node.asks))
        path.append((node, answer))
        node = answer.then
    return Recommendation(node, situation, tuple(path))


def trainable(base, gpu: str | float, tokens: int = 512) -> str:
    """The most of `MEMORY` that fits a GPU, one text at a time and with recomputation."""
    full = {"method": FullFineTuning(), "precision": MASTER_WEIGHTS}
    plans = {"full fine-tuning": full, "LoRA": {"method": LoRA(r=16)}, "4-bit LoRA": {"method": QLoRA(r=16)}}
    fitting = (name for name, plan in plans.items() if fits(base, gpu, tokens=tokens, recompute=True, **plan))
    return next(fitting, "nothing")


def leaves(node: Question | Advice = TREE, path: tuple = ()) -> Iterator[tuple[tuple, Advice]]:
    """((question, answer), …) and the advice behind them, for every way through the tree."""
    if isinstance(node, Advice):
        yield path, node
        return
    for answer in node.answers:
        yield from leaves(answer.then, (*path, (node, answer)))


def all_evidence() -> list[Measured | Published | Counted]:
    """All that the tree and what it sets aside rest on, each once."""
    found = [one for path, advice in leaves() for one in advice.rests_on]
    found += [one for path, _ in leaves() for question, _ in path for one in question.rests_on]
    found += [one for reasons in SET_ASIDE.values() for one in reasons]
    return list({id(one): one for one in found}.values())


FACTS = {
    "access": "the model gives", "examples": "examples", "memory": "can be trained", "far": "new language or skill",
    "tasks": "tasks", "latency": "answers may be slower",
}  # fmt: skip


def cheat_sheet() -> Table:
    """Every way through the tree as a line: if, then, because, and how much of what that rests on holds."""
    rows = []
    for path, advice in leaves():
        if_ = "; ".join(f"{FACTS[question.asks]}: {answer.label}" for question, answer in path)
        held = [one.holds() for one in advice.rests_on]
        rows.append((if_, advice.what, advice.why, f"{held.count(True)} of {len(held)}"))
    return Table(("if", "then", "because", "holds"), rows)


def first_size(row_at, rival: Row, sizes=(10, 30, 100, 300, ALL)) -> float:
    """The smallest number of examples at which `row_at(size)` reaches the rival; infinity where none does.

    What `FEW` should be: `first_size(lambda size: Row("head_to_head", {"method": "LoRA", "examples": size}), …)`.
    Raises LookupError where a run is not recorded.
    """
    return next((size for size in sizes if row_at(size).value() >= rival.value()), math.inf)
