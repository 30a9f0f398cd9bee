"""The notebook files: their shared first cell, execution, staleness, and the tables made from their metadata.

python -m tools.notebooks execute [NN ...]   run notebooks and keep their outputs; any error stops it
python -m tools.notebooks tables             write the README's table and the notebooks' header lines
python -m tools.notebooks badges [ADDRESS]   write the repository's address into pyproject.toml and all notebooks
python -m tools.notebooks environment        write environment.yml from pyproject.toml
python -m tools.notebooks pictures           write docs/pictures and the README's pictures, from stored outputs
python -m tools.notebooks shared             write the list of docs/contributing.md: what three or more notebooks import
python -m tools.notebooks html [NN ...]      write build/pages: notebooks as pages without scripts
"""

import ast
import hashlib
import re
import sys
import time
import tomllib
from datetime import datetime
from pathlib import Path

from lessonlib.course.session import lessons

from . import readme_pictures, shared
from .files import NOTEBOOKS, ROOT, paths, write_between

BOOTSTRAP = """\
# @title The course's library and packages: run this cell first
# The same cell in all ten notebooks. It finds the course above or beside them, in a folder of any name, fetches it on
# Colab, and looks at the packages.
import pathlib, subprocess, sys
ADDRESS = "{address}"
here, form = pathlib.Path.cwd(), "lessonlib/bootstrap.py"
below = [file.parents[1] for top in (here, pathlib.Path("/content")) for file in sorted(top.glob(f"*/{{form}}"))]
home = next((place for place in (here, *here.parents, *below) if (place / form).exists()), None)
if home is None and ADDRESS and "google.colab" in sys.modules:
    home = here / "course"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ADDRESS, str(home)])
if home is not None and str(home) not in sys.path:
    sys.path.insert(0, str(home))
try:
    from lessonlib.bootstrap import prepare
except ModuleNotFoundError:
    lines = f"!git clone {{ADDRESS or 'ADDRESS_OF_THE_COURSE'}} course\\n%cd course"
    colab = f"On Colab type these two lines into a cell above, run it and then this one:\\n{{lines}}\\n"
    cure = f"{{colab}}With conda or make: open this notebook in a clone of the course, after `make setup`."
    raise ImportError(f"The course is not here. {{cure}}") from None
prepare()"""
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab reads one, Colab the other
BRANCH = "main"  # a page of Colab names a branch
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


def address() -> str:
    """The repository's address, from pyproject.toml; empty until there is one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def write_address(new: str) -> None:
    """Write the repository's address into pyproject.toml, in the one line that is kept for it.

    Raises ValueError for what is no address of a repository.
    """
    if not re.fullmatch(r"https://[\w.-]+(/[\w.~-]+)+", new):
        raise ValueError(f"{new!r} is no address of a repository, as https://github.com/owner/name")
    page = ROOT / "pyproject.toml"
    text, found = re.subn(r'(?m)^(# )?Repository = ".*"$', f'Repository = "{new}"', page.read_text("utf8"))
    if found != 1:
        raise ValueError(f'pyproject.toml has {found} lines `Repository = "…"`, not one')
    page.write_text(text, "utf8")


def bootstrap() -> str:
    """The source of the first code cell."""
    return BOOTSTRAP.format(address=address())


def colab_badge(file: str) -> str:
    """A badge that opens the notebook on Colab, which opens what lies on GitHub; empty for any other address, or none."""
    where = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", address())
    page = f"https://colab.research.google.com/github/{where[1]}/blob/{BRANCH}/notebooks/{file}" if where else ""
    return f"{BADGE}({page})" if where else ""


def colab_way() -> str:
    """README's first lines on Colab: the badge where there is one, and the two lines that work for any address."""
    badge = colab_badge(paths(["01"])[0].name)
    one = f"{badge} opens notebook 01, and each notebook has its own. Or in any notebook there:" if badge else ""
    other = "Open Colab, upload a notebook of `notebooks/`, and type above its first cell:"
    lines = f"!git clone {address() or '<the address of this repository>'} course\n%cd course"
    return f"{one or other}\n\n```\n{lines}\n```"


def tags(cell) -> list[str]:
    """A cell's tags."""
    return cell.get("metadata", {}).get("tags", [])


def source_hash(notebook) -> str:
    """A hash of all code in the notebook but its first cell; kept in its metadata by the last execution, so that stale
    outputs show. The first cell, the same everywhere, changes with the repository's address and gives no output.
    """
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256("\0".join(code[1:]).encode()).hexdigest()[:16]


def same_code(a: str, b: str) -> bool:
    """Whether two pieces of source say the same, docstrings, comments and layout aside."""

    def bare(source):
        tree = ast.parse(source)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                    node.body = body[1:]
        return ast.dump(tree)

    return bare(a) == bare(b)


def tidy(notebook) -> None:
    """Leave in the outputs what every reader can see: no widgets without a kernel, no timings of cells, no stderr."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                raise RuntimeError(f"a cell of the notebook wrote to stderr: {output.text[:300]!r}")
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            kept.append(output)
        cell.outputs = kept


def execute(path: Path) -> float:
    """Run a notebook whole, as a learner's Run All does, and keep its outputs. Returns the minutes."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.store_widget_state = False
    client.execute()
    minutes = (time.perf_counter() - start) / 60
    measured = section_minutes(notebook)
    tidy(notebook)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["lessonlib"] = {"source_hash": source_hash(notebook), "minutes": measured}
    write_header(notebook, path.name[:2])
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return minutes


def section_minutes(notebook) -> dict[str, float]:
    """Minutes that the cells under each heading took at the execution just done, from the kernel's own clock."""
    minutes, section = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = (re.findall(r"^##? (.+)$", cell.source, flags=re.M) or [section])[-1]
            continue
        times = cell.metadata.get("execution", {})
        began, ended = (
            datetime.fromisoformat(times[f"iopub.{what}"].replace("Z", "+00:00"))
            for what in ("status.busy", "status.idle")
        )
        minutes[section] = minutes.get(section, 0.0) + (ended - began).total_seconds() / 60
    return {name: round(value, 2) for name, value in minutes.items()}


def longest_sections(minutes: dict[str, float]) -> str:
    """The sections that take a tenth of the whole or more, with their minutes.

    >>> longest_sections({"Merge": 0.04, "Train": 2.46, "Sweep": 0.5})
    'The longest sections: Train 2.5, Sweep 0.5 minutes.'
    """
    tenth = 0.1 * sum(minutes.values()) - 1e-9  # Pythons before 3.12 add with other roundings
    long = {name: value for name, value in minutes.items() if value >= tenth}
    order = sorted(long, key=lambda name: (-long[name], name))  # nbformat sorts metadata by its keys
    named = ", ".join(f"{name} {long[name]:.1f}" for name in order)
    return f"The longest sections: {named} minutes."


def write_header(notebook, number: str) -> None:
    """Write the line of minutes and memory under the title, and the sections that take longest."""
    title, _, rest = notebook.cells[0].source.partition("\n\n")
    _, _, rest = rest.partition("\n\n")
    line = header_line(number)
    if measured := notebook.metadata.get("lessonlib", {}).get("minutes"):
        line += "\n" + longest_sections(measured)
    notebook.cells[0].source = f"{title}\n\n{line}\n\n{rest}"


def header_line(number: str) -> str:
    """The line under a notebook's title: where it stands, minutes, memory."""
    entry = lessons()[number]
    unit = "minute" if entry["minutes"] == 1 else "minutes"
    return (
        f"Notebook {int(number)} of ten · {entry['minutes']} {unit} on two cores · {entry['memory_gb']} GB of memory · "
        "no GPU, no network."
    )


def readme_table() -> str:
    """The README's table of the ten notebooks."""
    rows = ["| notebook | minutes | memory | what you build |", "| --- | --- | --- | --- |"]
    for number, entry in lessons().items():
        file = next(NOTEBOOKS.glob(f"{number}_*.ipynb"), None)
        title = f"{number} {entry['title']}"
        name = f"[{title}](notebooks/{file.name})" if file else f"{title} *(not written yet)*"
        rows.append(f"| {name} | {entry['minutes']} | {entry['memory_gb']} GB | {entry['builds']} |")
    return "\n".join(rows)


def write_tables() -> None:
    """Write the README's table, and each notebook's header line."""
    import nbformat

    write_between("table", readme_table())
    for path in paths():
        notebook = nbformat.read(path, as_version=4)
        write_header(notebook, path.name[:2])
        nbformat.write(notebook, path)


def environment() -> str:
    """environment.yml: the way in for conda, Windows included. pip installs the pins, as `make setup` does."""
    return (
        "# Generated from pyproject.toml by `make environment`; a test says when it is stale.\n"
        "name: adapting-llms\n"
        "channels:\n  - conda-forge\n"
        "dependencies:\n  - python=3.11\n  - pip\n"
        "  - pip:\n      - --constraint constraints.txt\n      - --editable .[lab]\n"
    )


def write_badges() -> None:
    """Write the shared first cell with the repository's address, and a badge for Colab, into all notebooks and README."""
    import nbformat

    for path in paths():
        notebook = nbformat.read(path, as_version=4)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        first.source = bootstrap()
        first.metadata |= FOLDED
        header = re.sub(rf"\n\n{re.escape(BADGE)}\(.*?\)", "", notebook.cells[0].source)
        badge = colab_badge(path.name)
        notebook.cells[0].source = f"{header}\n\n{badge}" if badge else header
        nbformat.write(notebook, path)
    write_between("colab", colab_way(), ROOT / "README.md")


def main(arguments: list[str]) -> int:
    """The command: 0, or 2 for a command or a lesson that there is not, which a line on stderr says."""
    try:
        return _main(*arguments)
    except FileNotFoundError as cause:
        print(cause, file=sys.stderr)
        return 2


def _main(command: str = "help", *rest: str) -> int:
    rest = list(rest)
    if command == "execute":
        for path in paths(rest):
            print(f"{path.name} ...", flush=True)
            print(f"{path.name}: {execute(path):.1f} minutes")
    elif command == "tables":
        write_tables()
    elif command == "badges":
        if rest:
            write_address(*rest)
        write_badges()
    elif command == "environment":
        (ROOT / "environment.yml").write_text(environment(), "utf8")
    elif command == "pictures":
        readme_pictures.write()
    elif command == "shared":
        shared.write()
    elif command == "html":
        from .pages import write_pages

        for file in write_pages(paths(rest), ROOT / "build" / "pages"):
            print(file.relative_to(ROOT))
    elif command == "help":
        print(__doc__)
    else:
        print(f"tools.notebooks has no command {command!r}: call it with help, which lists them", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
