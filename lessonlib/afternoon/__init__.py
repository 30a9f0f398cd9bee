"""From a file of your own to a served model, in one command."""

from .answers import (
    BAD_INPUTS,
    AfternoonError,
    Answers,
    InputRefused,
    OffTaskScores,
    Predictor,
    answer_seconds,
    ask,
    off_task_scores,
    question,
)
from .checks import (
    Variant,
    figures,
    off_task_checks,
    quality_checks,
    quantize,
    save_merged,
    variants,
    verify,
)
from .kept import begin
from .pipeline import judge, main, run
from .service import (
    arm_watch,
    load,
    read_watch,
    serve,
    served_by_the_adapter,
    serving,
    shifted_window,
    watching,
)
from .trials import (
    Artifacts,
    Scores,
    Threshold,
    Trial,
    baselines,
    best,
    read_task,
    save,
    state_threshold,
    targets,
    train,
    tune,
)
