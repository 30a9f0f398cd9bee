"""What importing the library sets, before torch is loaded."""

import os
import subprocess
import sys


def _said_by(code: str, **environ) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "HF_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environ, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_threads_wait_asleep_so_that_a_busy_core_does_not_stop_training():
    assert _said_by("import lessonlib, os; print(os.environ['OMP_WAIT_POLICY'])") == "PASSIVE"


def test_a_policy_of_the_learners_own_is_kept():
    assert (
        _said_by("import lessonlib, os; print(os.environ['OMP_WAIT_POLICY'])", OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
    )


def test_torch_is_not_loaded_by_the_import_itself():
    assert _said_by("import lessonlib, sys; print('torch' in sys.modules)") == "False"


def test_nothing_asks_the_hub_by_itself():
    assert _said_by("import lessonlib, os; print(os.environ['HF_HUB_OFFLINE'])") == "1"
