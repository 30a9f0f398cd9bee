"""What an afternoon keeps between two calls: small files that are whole or not there, and a directory that is one call's."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Set
from pathlib import Path

from filelock import FileLock, Timeout

from lessonlib.display import ASIDE, remove, written_aside
from lessonlib.training import work_directory

from .answers import AfternoonError

STATE = "afternoon.json"
ELSEWHERE = "name another directory with --out (OUT=)"


def keep(path: str | Path, content: dict) -> None:
    """Write an object as JSON, in place of an older one. Raises OSError where it cannot be written."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n", "utf8")


def kept(path: str | Path, names: Set[str], cure: str) -> dict:
    """Of the object that `keep` wrote, what goes by these names.

    Raises FileNotFoundError where there is none, AfternoonError with the path and the cure where it is damaged.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf8"))
    except ValueError as cause:  # empty, cut, zeros, or no text at all
        raise AfternoonError(f"{path} is damaged ({cause}): {cure}") from None
    if not isinstance(content, dict) or (lacking := sorted(names - content.keys())):
        what = f"no {lacking[0]} in it" if isinstance(content, dict) else f"{type(content).__name__}, not an object"
        raise AfternoonError(f"{path} is damaged or of another version ({what}): {cure}")
    return {name: content[name] for name in names}


@contextlib.contextmanager
def held(out: str | Path) -> Iterator[None]:
    """The directory is this call's as long as the block runs. Raises AfternoonError where another process has it.

    The lock lies among the person's unfinished work; where none can be kept there, the block runs without.
    """
    digest = hashlib.sha256(str(Path(out).resolve()).encode()).hexdigest()[:16]
    with contextlib.ExitStack() as stack:
        try:
            path = work_directory() / "running" / f"afternoon-out-{digest}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path).acquire(timeout=0))
            stack.callback(remove, path)
        except Timeout:
            raise AfternoonError(
                f"another process is at the afternoon in {out}: wait for it, or {ELSEWHERE}"
            ) from None
        except (OSError, NotImplementedError):
            pass
        yield


def begin(out: str | Path, settings: dict) -> Path:
    """The directory that everything goes into. Nothing of anybody else's is written over.

    Raises AfternoonError where it holds other files, or an afternoon with other settings.
    """
    out = Path(out)
    path = out / STATE
    if path.exists():
        cure = f"with which settings it began cannot be told any more; {ELSEWHERE}, or remove this one"
        before = kept(path, settings.keys(), cure)
        if odd := sorted(name for name in settings if settings[name] != before[name]):
            raise AfternoonError(
                f"{out} holds an afternoon with another {odd[0]} ({before[odd[0]]!r}, now {settings[odd[0]]!r}): "
                f"{ELSEWHERE}, or remove this one"
            )
        print(f"Taking up {out}: what is there is used, the report is written anew.")
    elif out.exists() and (not out.is_dir() or any(not _left(file, STATE) for file in out.iterdir())):
        raise AfternoonError(f"{out} exists and is not an afternoon's: {ELSEWHERE}")
    out.mkdir(parents=True, exist_ok=True)
    for file in [*out.iterdir(), *out.glob("trials/*")]:  # of a call that was killed while it wrote
        if _left(file):
            remove(file)
    keep(path, settings)
    return out


def _left(file: Path, name: str = "") -> bool:
    return file.name.startswith(name) and file.name.endswith(ASIDE)
