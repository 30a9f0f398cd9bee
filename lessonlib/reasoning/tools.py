"""Reasoning and acting by turns (Yao et al., 2022, arXiv:2210.03629, section 2).

    Question: How much are three Lumo lamps?
    Thought 1: I need the price of one.
    Action 1: handbook[price of the Lumo lamp]
    Observation 1: The Lumo lamp costs 24 euros.        <- from a tool, not from the model
    Thought 2: Three of them are 3 * 24.
    Action 2: calculator[3 * 24]
    …
    Action 3: finish[72]

The model writes thoughts and actions, the loop carries the actions out. Whatever the model writes, the loop goes on:
an action that cannot be read or fails becomes an observation. Steps, seconds and tokens are bounded.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lessonlib.models.writing import Completion, PromptTooLong

from .chains import write_chains
from .programs import ProgramRejected, run_program

LONGEST_OBSERVATION = 400  # characters
FINISH = "finish"
ACTION = re.compile(r"^\s*Action *\d*:[ \t]*(?:(\w+)[ \t]*\[([^\n]*)\])?([^\n]*)$", re.MULTILINE)


def calculator(expression: str) -> str:
    """The value of an expression, or of a small program, from the sandbox; or why there is none. Never an exception.

    >>> calculator("3 * 24")
    '72'
    >>> calculator("3 * price")
    "the program failed in line 1: NameError: no variable 'price' has a value here"
    """
    try:
        return str(run_program(expression).value)
    except ProgramRejected as rejected:
        return str(rejected)


def model_writer(model, tokenizer) -> Callable[[str, int], Completion]:
    """A language model as ReAct's writer: greedy, up to the place where the observation would stand."""

    def write(prompt: str, max_new_tokens: int) -> Completion:
        return write_chains(model, tokenizer, [prompt], max_new_tokens=max_new_tokens, stop=["\nObservation"])[0]

    return write


@dataclass(frozen=True)
class Step:
    """A thought, the action as it was written, and what came of it."""

    thought: str
    action: str
    observation: str


@dataclass
class Trace:
    """What a run did. ended: "finished", or what there was no more of: "steps", "seconds", "tokens", or "room" in
    the model's context.

    `malformed` counts the steps whose action could not be carried out. Prints as in the paper.
    """

    question: str
    steps: list[Step] = field(default_factory=list)
    answer: str | None = None
    ended: str = ""
    malformed: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def __str__(self):
        lines = [f"Question: {self.question}"]
        for i, step in enumerate(self.steps, 1):
            lines += [f"Thought {i}: {step.thought}", f"Action {i}: {step.action}"]
            lines += [f"Observation {i}: {step.observation}"] if step.observation else []
        end = "finished" if self.ended == "finished" else f"stopped: no {self.ended} left"
        return "\n".join([*lines, f"({end}; {len(self.steps)} steps, {self.tokens} tokens)"])


class ReAct:
    """The loop of thought, action and observation.

    write(prompt, max_new_tokens) -> Completion: a model (see `model_writer`), or any function.
    tools: name -> function from text to text. `finish[answer]` ends the run and is no tool.
    instructions: stands before the question: what the tools do, worked examples.
    steps, seconds, tokens: the most that a run takes. Seconds are looked at between steps: a call of `write` or of a
    tool that has begun is waited for, so that these bound themselves. Of `tokens`, a step may use `step_tokens`.

    Raises ValueError for a tool whose name is no word or "finish", and for a limit that is not above zero.

    >>> lines = iter([" I add.\\nAction 1: calculator[40 + 2]", " That is it.\\nAction 2: finish[42]"])
    >>> agent = ReAct(lambda prompt, most: Completion(next(lines), 12, True), {"calculator": calculator})
    >>> print(agent("What is 40 + 2?"))
    Question: What is 40 + 2?
    Thought 1: I add.
    Action 1: calculator[40 + 2]
    Observation 1: 42
    Thought 2: That is it.
    Action 2: finish[42]
    (finished; 2 steps, 24 tokens)
    """

    def __init__(
        self,
        write: Callable[[str, int], Completion],
        tools: Mapping[str, Callable[[str], str]],
        *,
        instructions: str = "",
        steps: int = 6,
        seconds: float = 60.0,
        tokens: int = 480,
        step_tokens: int = 80,
    ):
        self.tools = {name.casefold(): tool for name, tool in tools.items()}
        for name in self.tools:
            if not re.fullmatch(r"\w+", name) or name == FINISH:
                raise ValueError(f"a tool cannot be called {name!r}: letters and digits, and not {FINISH!r}")
        for name, limit in {
            "steps": steps,
            "seconds": seconds,
            "tokens": tokens,
            "step_tokens": step_tokens,
        }.items():
            if not limit > 0:
                raise ValueError(f"{name} = {limit}: must be above zero")
        self.write, self.instructions = write, instructions
        self.steps, self.seconds, self.tokens, self.step_tokens = steps, seconds, tokens, step_tokens

    def __call__(self, question: str) -> Trace:
        """Run to an answer or to a limit. Whatever the model writes and the tools raise, there is a trace."""
        trace, began = Trace(question), time.monotonic()
        prompt = f"{self.instructions}Question: {question}\n"
        while not (trace.ended or (limit := self._limit(trace))):
            prompt += f"Thought {len(trace.steps) + 1}:"
            try:
                written = self.write(prompt, min(self.step_tokens, self.tokens - trace.tokens))
            except PromptTooLong:
                limit = "room"
                break
            step = self._carry_out(written.text, trace)
            trace.tokens += written.tokens
            trace.steps.append(step)
            i = len(trace.steps)
            prompt += f" {step.thought}\nAction {i}: {step.action}\nObservation {i}: {step.observation}\n"
            trace.seconds = time.monotonic() - began
        trace.ended = trace.ended or limit
        return trace

    def _limit(self, trace: Trace) -> str | None:
        if len(trace.steps) >= self.steps:
            return "steps"
        if trace.tokens >= self.tokens:
            return "tokens"
        return "seconds" if trace.seconds >= self.seconds else None

    def _carry_out(self, text: str, trace: Trace) -> Step:
        """Read the first action in a text and carry it out. The model's own observations are cut off."""
        text = text.split("\nObservation")[0]
        line = ACTION.search(text)
        thought = one_line(text[: line.start()] if line else text)
        action = one_line(line[0].partition(":")[2]) if line else ""
        name = (line[1] or "").casefold() if line and not line[3].strip() else ""
        if name == FINISH:
            trace.answer, trace.ended = line[2].strip(), "finished"
            return Step(thought, action, "")
        if name in self.tools:
            try:
                return Step(thought, action, one_line(str(self.tools[name](line[2].strip()))))
            except Exception as cause:  # a tool may be anybody's code; its failure is for the model to read
                observation = f"{name} failed: {type(cause).__name__}: {cause}"
        else:
            known = ", ".join([*self.tools, FINISH])
            observation = f"No such action. Write it as name[input] with one of: {known}."
        trace.malformed += 1
        return Step(thought, action, one_line(observation))


def one_line(text: str) -> str:
    """The text on one line and not too long, so that no observation can pass for a thought or an action."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_OBSERVATION else f"{line[: LONGEST_OBSERVATION - 1]}…"
