"""The experiments behind the recorded runs, lessonNN_topic.py each; what they share stands in tickets.py and trials.py.

`python -m lessonlib.experiments` records what is missing; with names of modules behind it, only theirs.
"""

from .registry import ExperimentError, experiment, experiments, find, modules, outdated, record, rerun
