"""The evidence of the course. data/decision.toml calls it by its names here, and a new piece is written here first."""

from lessonlib.costs import FullFineTuning, LoRA, QLoRA

from .evidence import Counted, Measured, Published, Row

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
FOUR_BITS_NEED_LESS = Counted("LoRA over 4-bit weights trains in half the memory", LoRA(r=16), QLoRA(r=16), times=2)
FOUR_BITS_ARE_AS_GOOD = Published(
    "a 4-bit base (NF4) trains as well as a 16-bit one",
    "dettmers2023_table4",
    ("NFloat4 + DQ", "mean"),
    ("BFloat16", "mean"),
    by=-0.5,
)

CALIBRATION_IS_SAFE = Measured(
    "calibrating a prompt without examples loses nothing here", _shots(0, "calibrated"), _shots(0), by=0.0
)

PROMPT_TUNING_IS_BEHIND = Measured(
    "LoRA is well ahead of prompt tuning", _trained("LoRA"), _trained("prompt tuning"), by=0.05
)
PREFIX_TUNING_IS_BEHIND = Measured(
    "LoRA is well ahead of prefix tuning", _trained("LoRA"), _trained("prefix tuning"), by=0.05
)
AS_GOOD_AS_AN_ADAPTER = Measured(
    "LoRA is as good as an adapter, or nearly", _trained("LoRA"), _trained("adapter"), by=-NOISE
)
FASTER_THAN_AN_ADAPTER = Measured(
    "merged, LoRA answers faster than an adapter",
    _cost("adapter", "answer_time.as trained.0"),
    _cost("LoRA", "answer_time.merged.0"),
)
ADAPTERS_TAKE_LONGER = Published(
    "one text at a time, an adapter took a fifth longer or more",
    "hu2021_table1",
    ("AdapterH", "1 x 128"),
    ("FT/LoRA", "1 x 128"),
    by=5,
)

EVIDENCE = {name: one for name, one in globals().items() if isinstance(one, Measured | Published | Counted)}
