"""What a process of its own found out on the pretended device: started once, whatever the number of workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def reported(tmp_path_factory, worker_id):
    """reported("rules", "float16"): the JSON that a script of this folder writes, given these words."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent  # all workers' own

    def reported(script: str, *words: str):
        path = folder / "-".join([script, *words, "report.json"]).replace(" ", "_")
        with FileLock(f"{path}.lock"):
            if not path.exists():
                # One thread, and the error stream kept: it holds what the device's process died of.
                settings = {
                    "OMP_NUM_THREADS": "1",
                    "CI": "true",
                    "PYTHONPATH": os.pathsep.join(map(str, HERE.parents[:2])),
                }
                done = subprocess.run(
                    [sys.executable, str(HERE / f"{script}.py"), *words],
                    env=os.environ | settings,
                    capture_output=True,
                    text=True,
                    timeout=900,
                )
                assert done.returncode == 0, done.stderr[-4000:]
                path.write_text(done.stdout, encoding="utf8")
            return json.loads(path.read_text(encoding="utf8"))

    return reported
