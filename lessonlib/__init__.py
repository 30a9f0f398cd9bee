"""The library behind ten notebooks on adapting large language models.

Symbols, the same in all ten:

    B   batch size                 r       rank of a low-rank update
    T   tokens in a text           alpha   its scale is alpha / r
    D   width of the model         W       a frozen weight, (d_out, d_in)
    V   size of the vocabulary     A, B    factors of the update, (r, d_in) and (d_out, r)

(In `lora` B is always the matrix; batches there are written `...`.)
"""

import logging
import os
import sys

# Nothing here may reach for the network by itself; `load_base(source="hub")` lifts this for its own call.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Torch's threads wait for each other at every product. Waiting awake, as is their default, they hold the cores that
# another program (a browser) wants, and a training step takes ten times as long; asleep, it hardly notices.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# bitsandbytes looks for an optional kernel package when PEFT imports it, and says so in every notebook.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

for _stream in (sys.stdout, sys.stderr):
    # A terminal or a file that takes ASCII alone gets a question mark for "×", and the call goes on.
    if hasattr(_stream, "reconfigure") and not str(_stream.encoding).lower().startswith("utf"):
        _stream.reconfigure(errors="replace")

__all__ = ["Session", "start"]
__version__ = "0.1.0"


def __getattr__(name: str):
    # Late, so that lessonlib.bootstrap can be imported where torch is not installed yet, and say so.
    if name in __all__:
        from lessonlib.course import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
