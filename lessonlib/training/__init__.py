"""The one loop that trains every method, and what it trains on."""

from .checkpoint import first_process, work_directory
from .loop import History, Steps, fit, trainable_parameters
from .seeds import seed_everything

CHECKPOINT_SECONDS = 5.0  # between two checkpoints of a run; read anew each time, so it may be set
