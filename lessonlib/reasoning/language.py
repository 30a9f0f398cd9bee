"""A language for programs that a model wrote: arithmetic on plain data, written as in Python, and nothing else.

    price = 12
    for month in range(3):
        price = price * 1.05
    answer = round(price, 2)

It has numbers, texts, lists, True, False and None; variables; + - * / // % **; comparisons, and, or, not, `a if b
else c`; if, for, while, break, continue, pass; the functions in FUNCTIONS, and print. Each construct is one method of
`Language`, and what has no method does not exist: no attribute, import, definition, class or object. Nothing is
handed to Python's own compile, eval or exec, so that there is nothing to escape to. Sizes and steps are bounded.

`lessonlib.reasoning.programs` runs this file as a script, in a process of its own that first takes its own means
away (`confine`). It needs the standard library alone.
"""

import ast
import contextlib
import json
import math
import operator
import os
import re
import sys
import unicodedata  # noqa: F401  Python's parser wants it for names and texts beyond ASCII; later it could not be loaded
from collections import deque
from itertools import pairwise

try:
    import resource
except ImportError:  # Windows has no such limits: there the language's own and the parent's clock must do
    resource = None

LONGEST_SOURCE = 10_000  # characters
DEEPEST = 60  # expressions and blocks inside one another
MOST_STEPS, MOST_BITS = 100_000, 4_096  # bits of a whole number: some 1,200 digits
LARGEST = 10_000  # numbers, characters and items in one value
MOST_OUTPUT = 10_000  # characters
MOST_MEMORY = 256 * 2**20  # bytes of the whole process
LARGEST_REPORT = 2**19  # bytes; the largest value and the longest output stay below

REFUSED = {  # what goes by its name in lower case alone, such as "try", is not listed
    "AnnAssign": "a type behind a colon", "AsyncFunctionDef": "async", "Attribute": "an attribute (a dot behind a value)",
    "ClassDef": "a class", "Delete": "del", "Dict": "a dictionary", "FunctionDef": "a function definition",
    "Import": "an import", "ImportFrom": "an import", "JoinedStr": "an f-string", "Lambda": "a lambda",
    "NamedExpr": "the walrus :=", "Set": "a set", "Slice": "a slice", "Starred": "a star",
    "keyword": "an argument by name", "BitAnd": "the operator &", "BitOr": "the operator |",
    "BitXor": "the operator ^ (a power is written **)", "Invert": "the operator ~", "Is": "is (== compares values)",
    "IsNot": "is not (!= compares values)", "LShift": "the operator <<", "MatMult": "the operator @", "RShift": "the operator >>",
    **dict.fromkeys(("DictComp", "GeneratorExp", "ListComp", "SetComp"), "a comprehension"),
}  # fmt: skip


class Stop(Exception):
    """The program ends here. kind: "refused" (not in the language), "stopped" (a limit) or "failed" (its own error)."""

    def __init__(self, kind: str, reason: str, line: int | None = None):
        super().__init__(kind, reason, line)
        self.kind, self.reason, self.line = kind, reason, line


class LeaveLoop(Exception):
    """`break`: caught by the loop around it."""


class NextRound(Exception):
    """`continue`: caught by the loop around it."""


# --- what operators and functions do ------------------------------------------------------------------------


def weight(value) -> int:
    """Numbers, characters and items in a value, counted until there are too many.

    >>> weight([1, "ab", [2, 3]])
    8
    """
    total, rest = 0, [value]
    while rest and total <= LARGEST:
        item = rest.pop()
        total += 1
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, list):
            rest += item
        elif isinstance(item, int):
            total += item.bit_length() // 64
    return total


def numeric(function):
    """The operator, for two numbers alone: Python's own % would format a text, its - subtract sets.

    True and False are numbers too. It raises TypeError for anything else.
    """

    def apply(a, b):
        if not (isinstance(a, int | float) and isinstance(b, int | float)):
            raise TypeError(f"numbers are needed, not {type(a).__name__} and {type(b).__name__}")
        return function(a, b)

    return apply


def add(a, b):
    """Numbers, two texts or two lists."""
    alike = type(a) is type(b) and isinstance(a, str | list)
    return a + b if alike else numeric(operator.add)(a, b)


def multiply(a, b):
    """Numbers; a text or a list and a whole number. Raises Stop where the product is too large."""
    if isinstance(b, str | list):
        a, b = b, a
    if isinstance(a, str | list) and isinstance(b, int):
        if weight(a) * b > LARGEST:
            raise Stop("stopped", f"a value of more than {LARGEST:,} items or characters")
        return a * b
    return numeric(operator.mul)(a, b)


def power(a, b):
    """Numbers, as long as the result is a real number that is not too long. Raises Stop where it would be."""
    if isinstance(a, int) and isinstance(b, int) and abs(a) > 1 and a.bit_length() * b > MOST_BITS:
        raise Stop("stopped", f"a whole number of more than {MOST_BITS:,} bits")
    return numeric(operator.pow)(a, b)


def contains(a, b):
    """`a in b`, for a text or a list b; raises TypeError for another b."""
    if not isinstance(b, str | list):
        raise TypeError(f"`in` needs a text or a list, not {type(b).__name__}")
    return a in b


def bounded_range(*numbers):
    """range(...) as a list. Raises Stop for one that is too long."""
    values = range(*numbers)
    if values and (values[-1] - values[0]) // values.step >= LARGEST - 1:  # len() fails beyond 2 ** 63
        raise Stop("stopped", f"a range of {LARGEST:,} numbers or more")
    return list(values)


def rounded(x, digits=None):
    """round(...); Python would form 10 ** -digits, however long that is. Raises ValueError for more than 20 digits."""
    if digits is not None and abs(digits) > 20:
        raise ValueError(f"round to {digits} digits: at most 20")
    return round(x, digits)


OPERATORS = {
    ast.Add: add, ast.Sub: numeric(operator.sub), ast.Mult: multiply, ast.Div: numeric(operator.truediv),
    ast.FloorDiv: numeric(operator.floordiv), ast.Mod: numeric(operator.mod), ast.Pow: power, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.In: contains, ast.NotIn: lambda a, b: not contains(a, b),
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
}  # fmt: skip
FUNCTIONS = {  # of as many arguments as stand here: Python's int, float, str take more, which are not needed
    "abs": abs, "bool": bool, "float": lambda value: float(value), "int": lambda value: int(value), "len": len,
    "max": max, "min": min, "range": bounded_range, "round": rounded, "sorted": lambda values: sorted(values),
    "str": lambda value: str(value), "sum": lambda values: sum(values),
}  # fmt: skip
OF_ONE = {"abs", "bool", "float", "int", "len", "sorted", "str", "sum"}
SILENT = (ast.And, ast.Or, ast.Load, ast.Store)  # parts of the grammar that do nothing by themselves


# --- what is refused before anything runs -------------------------------------------------------------------


def parse(source: str) -> ast.Module:
    """The program's tree. Raises Stop for anything that is not in the language; nothing has run then."""
    if len(source) > LONGEST_SOURCE:
        raise Stop("refused", f"the program has {len(source):,} characters; at most {LONGEST_SOURCE:,}")
    try:
        tree = ast.parse(source)
    except SyntaxError as cause:
        line = "".join(source.split("\n")[(cause.lineno or 1) - 1 :][:1])
        commas = re.finditer(",", line if "zeros" in cause.msg else "")  # 1,050: to Python 050 is no number
        said = next(filter(None, (separated(line, comma.start()) for comma in commas)), cause.msg)
        raise Stop("refused", f"not a program: {said}", cause.lineno) from cause
    except (ValueError, MemoryError, RecursionError) as cause:  # null bytes; too many brackets
        raise Stop("refused", f"not a program: {type(cause).__name__} {cause}") from cause
    lines, rest = re.split(r"\r\n|\r|\n", source), deque([(tree, 0, False)])
    while rest:
        node, depth, looped = rest.popleft()
        fault = "too many things inside one another" if depth > DEEPEST else refusal(node) or grouped(node, lines)
        if isinstance(node, ast.Break | ast.Continue) and not looped:
            fault = "break and continue stand inside a loop"
        if fault:
            raise Stop("refused", fault, getattr(node, "lineno", None))
        looped |= isinstance(node, ast.For | ast.While)
        rest.extend((child, depth + 1, looped) for child in ast.iter_child_nodes(node))
    return tree


def refusal(node: ast.AST) -> str | None:
    """Why a node is not in the language; None if it is."""
    kind = type(node).__name__
    if not hasattr(Language, kind) and type(node) not in OPERATORS and not isinstance(node, SILENT):
        return f"{REFUSED.get(kind, kind.lower())} is not in this language"
    match node:
        case ast.Name(id=name) if name.startswith("__"):
            return f"the name {name!r} is not in this language"
        case ast.Call(func=ast.Name(id=name), args=values) if name in OF_ONE and len(values) != 1:
            return f"{name}(...) takes one value, and here are {len(values)}"
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS or name == "print":
            return None
        case ast.Call():
            called = node.func.id if isinstance(node.func, ast.Name) else "what is called here"
            return f"{called} is none of the functions: {', '.join(FUNCTIONS)}, print"
        case ast.Constant(value=value) if not isinstance(value, int | float | str | None):
            return f"the constant {value!r} is not in this language"
        case ast.Subscript(ctx=ast.Store()) | ast.List(ctx=ast.Store()):
            return "only variables can be assigned to"
        case ast.For(orelse=[_, *_]) | ast.While(orelse=[_, *_]):
            return "a loop's else is not in this language"
    return None


def separated(line: str, comma: int) -> str | None:
    """What is said of a comma in a line that stands within a number, as that of 1,234 does; None for another one."""
    before = re.search(r"(?<![\w.])\d{1,3}$", line[:comma])
    if not before or not (number := re.match(r"\d{1,3}(,\d{3})+(?!\w)(\.\d+)?", line[before.start() :])):
        return None
    return f"{number[0]} is written with commas, which part things here: write {number[0].replace(',', '')}"


def grouped(node: ast.AST, lines: list[str]) -> str | None:
    """Why numbers behind one another are refused: 1,234 is one number to whoever wrote it, and two to Python.

    In a list and a call the spaces tell: [1,234, 5,678] is refused, [100,200] and range(1,100) hold two numbers each.
    """
    items = node.args if isinstance(node, ast.Call) else getattr(node, "elts", [])
    found, spaced = None, isinstance(node, ast.Tuple)
    for before, behind in pairwise(items):
        tight = before.end_lineno == behind.lineno and behind.col_offset == before.end_col_offset + 1
        spaced |= not tight
        if tight and not found:  # columns count bytes
            line = lines[behind.lineno - 1]
            found = separated(line, len(line.encode()[: before.end_col_offset].decode()))
    return found if spaced else None


# --- what each construct means ------------------------------------------------------------------------------


class Language:
    """Runs one program. Each method is named after the node of Python's grammar that it gives a meaning to.

    A method raises Stop where the program goes over a limit, NameError, TypeError or ValueError, or what Python itself
    raises, where the program fails, and LeaveLoop and NextRound for the loop around it.
    """

    def __init__(self):
        self.variables, self.output, self.steps, self.line = {}, "", 0, None

    def run(self, source: str):
        """The program's value: of the variable `answer` if there is one, else of the last line, else None."""
        last = None
        for statement in parse(source).body:
            last = self.visit(statement)
        return self.variables.get("answer", last)

    def visit(self, node):
        self.spend(1)
        self.line = getattr(node, "lineno", self.line)
        return getattr(self, type(node).__name__)(node)

    def spend(self, steps: int):
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise Stop("stopped", f"more than {MOST_STEPS:,} steps")

    def keep(self, value):
        """The value, if it is plain and not too large."""
        if isinstance(value, float | complex) and not (isinstance(value, float) and math.isfinite(value)):
            raise ValueError(f"{value} is not a finite real number")
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise Stop("stopped", f"a whole number of more than {MOST_BITS:,} bits")
        if (size := weight(value)) > LARGEST:
            raise Stop("stopped", f"a value of more than {LARGEST:,} items or characters")
        self.spend(size // 10)
        return value

    def Module(self, node):
        """The whole program; `run` walks through it."""

    def Expr(self, node):
        return self.visit(node.value)

    def Assign(self, node):
        value = self.visit(node.value)
        for target in node.targets:
            self.store(target, value)

    def AugAssign(self, node):
        old = self.Name(node.target)
        self.store(node.target, self.keep(OPERATORS[type(node.op)](old, self.visit(node.value))))

    def store(self, target, value):
        if isinstance(target, ast.Name):
            self.variables[target.id] = value
            return
        if not isinstance(value, list) or len(value) != len(target.elts):
            raise ValueError(f"{len(target.elts)} variables need a list of as many values")
        for part, item in zip(target.elts, value, strict=True):
            self.store(part, item)

    def If(self, node):
        self.block(node.body if self.visit(node.test) else node.orelse)

    def block(self, statements):
        for statement in statements:
            self.visit(statement)

    def For(self, node):
        items = self.visit(node.iter)
        if not isinstance(items, str | list):
            raise TypeError(f"`for` needs a list, not {type(items).__name__}")
        with contextlib.suppress(LeaveLoop):
            for item in items:
                self.store(node.target, item)
                with contextlib.suppress(NextRound):
                    self.block(node.body)

    def While(self, node):
        with contextlib.suppress(LeaveLoop):
            while self.visit(node.test):
                with contextlib.suppress(NextRound):
                    self.block(node.body)

    def Break(self, node):
        raise LeaveLoop

    def Continue(self, node):
        raise NextRound

    def Pass(self, node):
        """Nothing."""

    def Constant(self, node):
        return self.keep(node.value)

    def Name(self, node):
        if node.id not in self.variables:
            raise NameError(f"no variable {node.id!r} has a value here")
        return self.variables[node.id]

    def List(self, node):
        return self.keep([self.visit(item) for item in node.elts])

    Tuple = List

    def Subscript(self, node):
        values, index = self.visit(node.value), self.visit(node.slice)
        if not isinstance(values, str | list):
            raise TypeError(f"{type(values).__name__} has no items")
        return values[index]

    def BinOp(self, node):
        return self.keep(OPERATORS[type(node.op)](self.visit(node.left), self.visit(node.right)))

    def UnaryOp(self, node):
        return OPERATORS[type(node.op)](self.visit(node.operand))

    def BoolOp(self, node):
        for part in node.values:
            value = self.visit(part)
            if bool(value) == isinstance(node.op, ast.Or):
                break
        return value

    def Compare(self, node):
        left = self.visit(node.left)
        for op, part in zip(node.ops, node.comparators, strict=True):
            right = self.visit(part)
            if not OPERATORS[type(op)](left, right):
                return False
            left = right
        return True

    def IfExp(self, node):
        return self.visit(node.body if self.visit(node.test) else node.orelse)

    def Call(self, node):
        if node.func.id in self.variables:
            raise TypeError(f"{node.func.id!r} is a variable here, not a function")
        values = [self.visit(part) for part in node.args]
        return self.print(values) if node.func.id == "print" else self.keep(FUNCTIONS[node.func.id](*values))

    def print(self, values):
        for i, value in enumerate(values):
            self.output += " " * (i > 0) + str(value)
            if len(self.output) >= MOST_OUTPUT:
                raise Stop("stopped", f"more than {MOST_OUTPUT:,} characters of output")
        self.output += "\n"


# --- the process --------------------------------------------------------------------------------------------


def confine(seconds: int) -> None:
    """Take away what a program never needs: files, sockets, further processes, memory, time, and the rights of root.

    A limit of zero open files leaves standard input and output as they are and refuses each new file, socket and
    pipe. Root could lift such limits again, and its processes are not counted, so root becomes nobody first.
    """
    if resource is None:
        return
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # in a container that has no such user
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
    limits = {resource.RLIMIT_AS: MOST_MEMORY, resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: LARGEST_REPORT}
    limits |= dict.fromkeys((resource.RLIMIT_CORE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE), 0)
    for limit, value in limits.items():
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):
            if sys.platform == "linux":  # elsewhere not every limit exists
                raise


def report(source: str) -> str:
    """What came of a program, as JSON.

    >>> report("answer = 2 ** 10")
    '{"value": 1024, "output": ""}'
    >>> report("import os")
    '{"kind": "refused", "reason": "an import is not in this language", "line": 1}'
    """
    language = Language()
    try:
        value = language.run(source)
        return json.dumps({"value": value, "output": language.output}, allow_nan=False)
    except Stop as stop:
        kind, reason, line = stop.kind, stop.reason, stop.line or language.line
    except (MemoryError, RecursionError) as cause:
        kind, reason, line = "stopped", f"{type(cause).__name__}: too large", language.line
    except (ArithmeticError, LookupError, NameError, TypeError, ValueError) as cause:
        kind, reason, line = "failed", f"{type(cause).__name__}: {cause}", language.line
    return json.dumps({"kind": kind, "reason": reason[:300], "line": line})


if __name__ == "__main__":
    job = json.load(sys.stdin)
    confine(job["seconds"])
    sys.stdout.write(report(job["source"]))
