"""The house: which rooms there are, that imports go down only and never in a circle, and that no room outgrows itself.

All is read from syntax trees, so an import inside of a function counts like any other, and so does
`import_module("lessonlib.…")` with a literal name or a literal beginning. A package that looks through its own folder
(`import_module(f"{__package__}.{name}")`) goes nowhere by that.
"""

import ast
import functools
import graphlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top: a room imports from the floors below its own.
FLOORS = (
    ("tools",),
    ("__init__", "afternoon", "course", "exercises", "figures"),
    ("choosing",),
    ("experiments",),
    ("serving",),
    ("adapters", "costs", "lora", "networks", "prompting", "pruning", "quantization", "reasoning"),
    ("runs",),  # a recorded run answers with an `Accuracy`
    ("evaluation",),
    ("training",),
    ("corpora", "models"),
    ("display", "hardware"),
    ("bootstrap",),  # runs where nothing is installed yet
)
# Between rooms of one floor: a method knows no other method, but the 4-bit layer is a LoRA layer.
NEIGHBOURS = {("__init__", "course"), ("quantization", "lora")}

# The library had 13,495 lines when its rooms were cleared; other machines and other base models brought 600 more, refusals and whole files 1,500.
ENTRIES, LINES, LIBRARY_LINES, ROOMS, ARROWS = 30, 450, 15_900, 30, 90
APART = ("experiments", "exercises", "figures")  # not counted as the library: records, exercises, pictures


@dataclass(frozen=True)
class Import:
    """A line of a module of ours that imports another one of ours."""

    source: str
    target: str
    line: int


def modules(root: Path) -> dict[str, Path]:
    """The modules of the library, the tools and the benchmarks, by dotted name."""
    paths = [path for top in ("lessonlib", "tools", "benchmarks") for path in sorted((root / top).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def room(module: str) -> str:
    """The top-level entry of the library in which a module stands; `tools` and `benchmarks` are a room each."""
    parts = module.split(".")
    if parts[0] != "lessonlib":
        return parts[0]
    return parts[1] if len(parts) > 1 else "__init__"


@functools.cache
def imports(root: Path) -> tuple[Import, ...]:
    """Every import of one of our modules by another, each line and module once."""
    known = modules(root)
    found = {
        Import(source, target, line): None
        for source, path in known.items()
        for name, line in _imported(source, path)
        for target in _targets(name, known)
        if target != source
    }
    return tuple(found)


def _imported(source: str, path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names that a file imports, with their lines; one that ends in * stands for all that begin so."""
    package = source if path.name == "__init__.py" else source.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute("." * node.level + (node.module or ""), package)
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) == "import_module" and node.args:
            if name := _beginning(node.args[0]):
                yield _absolute(name, package), node.lineno


def _called(call: ast.Call) -> str:
    """The last name of what is called: f of f() and of module.f()."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parent = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*parent, *filter(None, [name[level:]])])


def _beginning(argument: ast.expr) -> str:
    """A literal name, or the literal beginning of an f-string with * behind it; "" for anything else."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
        return f"{argument.values[0].value}*"
    return ""


def _targets(name: str, known: dict[str, Path]) -> list[str]:
    """The modules of ours that an imported name means: itself, or the module that it is taken from."""
    if name.endswith("*"):
        return [module for module in known if module.startswith(name[:-1])]
    for module in (name, name.rpartition(".")[0]):
        if module in known:
            return [module]
    return []


def arrows(root: Path) -> dict[tuple[str, str], list[Import]]:
    """By pair of rooms, the imports that lead from the first into the second."""
    found = defaultdict(list)
    for one in imports(root):
        if room(one.source) != room(one.target):
            found[room(one.source), room(one.target)].append(one)
    return dict(found)


# --- what is held ------------------------------------------------------------------------------------------------------


def wrong_arrows(root: Path) -> list[str]:
    """A line for each import that does not go down; a room without a floor stands above all."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    lines = []
    for (above, below), places in arrows(root).items():
        high, low = floor.get(above, -1), floor.get(below, -1)
        if above == "benchmarks" or (above, below) in NEIGHBOURS or high < low:
            continue
        what = "stands beside it" if high == low else "stands above it"
        lines += [f"{one.source}:{one.line} imports {one.target}, but {below} {what}" for one in places]
    return lines


def rooms_without_a_floor(root: Path) -> set[str]:
    """Rooms that `FLOORS` does not name, and rooms that it names and that are gone."""
    rooms = {room(module) for module in modules(root)} - {"benchmarks"}
    return rooms ^ {name for names in FLOORS for name in names}


def circles(root: Path) -> list[str]:
    """A line for each circle of imports that is met: its modules, each importing the next, the last the first."""
    graph, lines = defaultdict(set), []
    for one in imports(root):
        graph[one.source].add(one.target)
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            *circle, _ = error.args[1][::-1]  # the sorter names each behind what imports it
            first = circle.index(min(circle))
            circle = [*circle[first:], *circle[:first]]
            lines.append(" > ".join(circle))
            graph[circle[-1]].remove(circle[0])  # taken out, so that another one is found
        else:
            return lines


def not_of_the_standard_library(root: Path) -> list[str]:
    """What bootstrap imports although it runs before anything is installed."""
    names = [name for name, _ in _imported("lessonlib.bootstrap", root / "lessonlib" / "bootstrap.py")]
    return [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]


def too_many(root: Path) -> list[str]:
    """A line for each measure of the house that is exceeded."""
    known, found = modules(root), arrows(root)
    entries = [
        path for path in (root / "lessonlib").iterdir() if path.name[0] not in "._" or path.name == "__init__.py"
    ]
    lines = {name: len(path.read_text("utf8").splitlines()) for name, path in known.items()}
    library = {name: n for name, n in lines.items() if name.startswith("lessonlib") and room(name) not in APART}
    files = [name for name in sorted(lines) if name.startswith("lessonlib") and room(name) != "exercises"]
    measures = [
        ("entries in lessonlib", len(entries), ENTRIES),
        ("rooms", len({room(name) for name in known}), ROOMS),
        ("arrows between rooms", len(found), ARROWS),
        (f"lines of the library without {', '.join(APART)}", sum(library.values()), LIBRARY_LINES),
        *((f"lines in {name}", lines[name], LINES) for name in files),
    ]
    return [f"{what}: {n}, at most {most}" for what, n, most in measures if n > most]


def test_every_room_has_a_floor():
    assert rooms_without_a_floor(ROOT) == set()


def test_imports_go_down_only():
    assert wrong_arrows(ROOT) == []


def test_there_is_no_circle():
    assert circles(ROOT) == []


def test_bootstrap_needs_nothing_that_has_to_be_installed():
    assert not_of_the_standard_library(ROOT) == []


def test_the_house_can_be_seen_at_once():
    assert too_many(ROOT) == []


# --- each of these seen failing, on houses made up -----------------------------------------------------------------------


@pytest.fixture
def house(tmp_path):
    """house({"lora/layer.py": text, ...}): the root of a house with these files in its library, or beside it."""

    def house(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name if name.startswith(("tools", "benchmarks")) else tmp_path / "lessonlib" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf8")
            if path.parent != tmp_path / "lessonlib":
                (path.parent / "__init__.py").touch()
        return tmp_path

    return house


@pytest.mark.parametrize(
    "line",
    [
        "from lessonlib.experiments.tickets import ALL_LINEAR",
        "from lessonlib.experiments import tickets",
        "import lessonlib.experiments.tickets",
        "from ..experiments.tickets import ALL_LINEAR",
        "from ..experiments import tickets",
        "def lazy():\n    from lessonlib.experiments import tickets",
        "import importlib\nimportlib.import_module('lessonlib.experiments.tickets')",
        "from importlib import import_module\nimport_module('..experiments.tickets', __package__)",
        "from importlib import import_module\nimport_module(f'lessonlib.experiments.tick{0}')",
        "if False:\n    import lessonlib.experiments.tickets as x",
    ],
)
def test_an_import_that_goes_up_is_named_in_whatever_form(house, line):
    root = house({"lora/layer.py": line, "experiments/tickets.py": ""})
    (found,) = wrong_arrows(root)
    number = line.count("\n") + 1
    expected = f"lessonlib.lora.layer:{number} imports lessonlib.experiments.tickets, but experiments stands above it"
    assert found == expected
    assert list(arrows(root)) == [("lora", "experiments")]


def test_an_import_that_goes_down_is_not_named(house):
    files = {
        "experiments/tickets.py": "from lessonlib.lora import layer",
        "lora/layer.py": "import torch, json",
    }
    assert wrong_arrows(house(files)) == []


def test_a_neighbour_is_named_unless_the_list_has_it(house):
    root = house(
        {
            "quantization/linear.py": "from lessonlib.lora.layer import LoRALinear",
            "lora/layer.py": "def f():\n    from lessonlib.pruning import masks",
            "pruning/masks.py": "",
        }
    )
    assert wrong_arrows(root) == [
        "lessonlib.lora.layer:2 imports lessonlib.pruning.masks, but pruning stands beside it"
    ]


def test_a_face_is_a_module_of_its_own(house):
    root = house({"lora/layer.py": "", "quantization/linear.py": "from lessonlib.lora import LoRALinear"})
    (one,) = imports(root)
    assert (one.source, one.target) == ("lessonlib.quantization.linear", "lessonlib.lora")


@pytest.mark.parametrize(
    "closing",
    [
        "from . import a",
        "from .a import x",
        "def f():\n    import lessonlib.lora.a",
        "from lessonlib.lora.a import x",
    ],
)
def test_a_circle_is_named_once(house, closing):
    root = house({"lora/a.py": "from . import b", "lora/b.py": "from .c import x", "lora/c.py": closing})
    assert circles(root) == ["lessonlib.lora.a > lessonlib.lora.b > lessonlib.lora.c"]


def test_two_circles_are_both_named(house):
    root = house({f"lora/{a}.py": f"from . import {b}" for a, b in ("ab", "ba", "cd", "dc")})
    assert sorted(circles(root)) == [
        "lessonlib.lora.a > lessonlib.lora.b",
        "lessonlib.lora.c > lessonlib.lora.d",
    ]


def test_a_file_that_imports_its_own_face_is_in_a_circle(house):
    root = house({"lora/layer.py": "from . import LoRALinear"})
    (root / "lessonlib" / "lora" / "__init__.py").write_text("from .layer import add_lora", "utf8")
    assert circles(root) == ["lessonlib.lora > lessonlib.lora.layer"]


def test_a_room_without_a_floor_and_a_floor_without_its_room_are_named(house):
    root = house({"utils/misc.py": "import lessonlib.lora.layer", "lora/layer.py": "from ..utils import misc"})
    found = rooms_without_a_floor(root)
    assert {"utils", "pruning"} <= found and "lora" not in found
    assert wrong_arrows(root) == ["lessonlib.lora.layer:1 imports lessonlib.utils.misc, but utils stands above it"]


def test_what_bootstrap_imports_is_named(house):
    root = house(
        {
            "bootstrap.py": "import sys\ndef f():\n    import torch\n    from . import hardware",
            "hardware.py": "",
        }
    )
    assert not_of_the_standard_library(root) == ["torch", "lessonlib.hardware"]
    assert wrong_arrows(root) == ["lessonlib.bootstrap:4 imports lessonlib.hardware, but hardware stands above it"]


def test_every_measure_is_taken(house):
    rooms = [f"room{n:02}" for n in range(31)]
    files = {
        f"{name}/a.py": "\n".join(f"from ..{other} import a" for other in rooms[:n]) for n, name in enumerate(rooms)
    }
    root = house(
        files
        | {
            "long.py": "\n" * 15_900 + "x = 1",
            "exercises/lesson01.py": "\n" * 500,
            "figures/a.py": "\n" * 450,
        }
    )
    assert too_many(root) == [
        "entries in lessonlib: 34, at most 30",
        "rooms: 34, at most 30",
        "arrows between rooms: 465, at most 90",
        "lines of the library without experiments, exercises, figures: 16366, at most 15900",
        "lines in lessonlib.long: 15901, at most 450",
    ]
