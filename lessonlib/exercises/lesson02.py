"""The exercises of 02 In-context learning."""

import math

import torch

from . import Exercise, NotYet, code
from .answers import answered, number


def _same(a: float, b: float, tolerance: float = 1e-5) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


# --- 02.1 ------------------------------------------------------------------------------------------------------------

_EXAMPLES = [("It is late.", "delivery"), ("Charged twice!", "billing")]
_FIRST = "Message: It is late.\nCategory: delivery\n\n"
_SECOND = "Message: Charged twice!\nCategory: billing\n\n"


def _verify_prompt(answer):
    ours = answered(answer(_EXAMPLES, "Where is it?"))
    if not isinstance(ours, str):
        raise NotYet(f"a {type(ours).__name__} comes back; the prompt is one string")
    for words in ("It is late.", "Charged twice!", "Where is it?"):
        if words not in ours:
            raise NotYet(f"{words!r} does not stand in your prompt; all examples and the new message belong in it")
    if "delivery" not in ours or "billing" not in ours:
        raise NotYet("the examples' labels are not in your prompt; without them there is nothing to learn from")
    if ours.index("Where is it?") < ours.index("It is late."):
        raise NotYet("the new message comes first; the model continues the end, so it must come last")
    if ours.endswith(("Category: ", "Category:\n")):
        raise NotYet(
            "the prompt ends in a space or a line break; the label brings its own space, and tokens like "
            "' billing' begin with it. End at the colon"
        )
    if "delivery\n\n" not in ours:
        raise NotYet("an empty line should part the examples: two line breaks behind each label")
    if "Category:delivery" in ours:
        raise NotYet("a space belongs between 'Category:' and the label, as in the text the model was trained on")
    if ours.index("It is late.") > ours.index("Charged twice!"):
        raise NotYet("the examples stand in the reverse order; show them as they are given")
    if ours != (right := _FIRST + _SECOND + "Message: Where is it?\nCategory:"):
        place = next((i for i, (a, b) in enumerate(zip(ours, right)) if a != b), min(len(ours), len(right)))
        raise NotYet(
            f"it differs from the form at character {place}: yours goes on with {ours[place : place + 12]!r}, "
            f"{right[place : place + 12]!r} is asked for"
        )
    if answer([], "Hello?") != "Message: Hello?\nCategory:":
        raise NotYet("right with two examples, but with none it should be the new message alone: zero-shot")


PROMPT = Exercise(
    id="02.1",
    title="A few-shot prompt",
    name="build_prompt",
    difficulty=1,
    minutes=5,
    stub=code("""
        def build_prompt(examples, text):
            prompt = ""
            for message, label in examples:
                ...
            return prompt
    """),
    solution=code("""
        def build_prompt(examples, text):
            prompt = ""
            for message, label in examples:
                prompt += f"Message: {message}\\nCategory: {label}\\n\\n"
            return prompt + f"Message: {text}\\nCategory:"
    """),
    verify=_verify_prompt,
    hints=(
        "Each example is two lines and an empty line. What of an example is left when the label is not known yet?",
        "Add f'Message: {message}' and f'Category: {label}' with line breaks, and end with the new message up to its colon.",
    ),
    wrong={
        code("""
            def build_prompt(examples, text):
                prompt = ""
                for message, label in examples:
                    prompt += f"Message: {message}\\nCategory: {label}\\n\\n"
                return prompt
        """): "'Where is it?' does not stand",
        code("""
            def build_prompt(examples, text):
                prompt = ""
                for message, label in examples:
                    prompt += f"Message: {message}\\nCategory: {label}\\n\\n"
                return prompt + f"Message: {text}\\nCategory: "
        """): "ends in a space",
        code("""
            def build_prompt(examples, text):
                prompt = ""
                for message, label in examples:
                    prompt += f"Message: {message}\\nCategory: {label}\\n"
                return prompt + f"Message: {text}\\nCategory:"
        """): "an empty line should part",
        code("""
            def build_prompt(examples, text):
                prompt = ""
                for message, label in examples:
                    prompt += f"Message: {message}\\n\\n"
                return prompt + f"Message: {text}\\nCategory:"
        """): "labels are not in your prompt",
        code("""
            def build_prompt(examples, text):
                prompt = f"Message: {text}\\nCategory:"
                for message, label in examples:
                    prompt += f"Message: {message}\\nCategory: {label}\\n\\n"
                return prompt
        """): "comes first",
    },
    praise="The whole of few-shot prompting is a string.",
)


# --- 02.2 ------------------------------------------------------------------------------------------------------------


def _verify_score(answer):
    log_probs = torch.randn(7, 11).log_softmax(-1)
    ids = torch.tensor([4, 9, 1, 7, 3, 10, 2])  # five of the context, two of the label
    right = (log_probs[4, 10] + log_probs[5, 2]).item()
    ours = number(answer(log_probs.clone(), ids.clone(), 5))
    if _same(ours, (log_probs[5, 10] + log_probs[6, 2]).item()):
        raise NotYet("you read row t for token t; row t is what the model expects behind token t, so read row t - 1")
    if _same(ours, right / 2):
        raise NotYet("you take the mean; the probability of a label is the product over its tokens, so add the logs")
    every = log_probs[torch.arange(6), ids[1:]].sum().item()
    if _same(ours, every):
        raise NotYet("the context's own tokens are in the sum as well; begin where the label begins")
    if _same(ours, log_probs[4, 10].item()):
        raise NotYet("only the label's first token is scored; it has two here")
    if _same(ours, math.exp(right)):
        raise NotYet("that is the probability; leave it as a logarithm, for long labels it gets too small to hold")
    if not _same(ours, right):
        raise NotYet(
            f"for a context of 5 tokens and a label of two you get {ours:.3f}; it should be log_probs[4, ids[5]] + "
            f"log_probs[5, ids[6]] = {right:.3f}"
        )
    if not _same(number(answer(log_probs, ids, 6)), log_probs[5, 2].item()):
        raise NotYet("right for a label of two tokens, not for one; use `begin`, not a fixed number of tokens")


SCORE = Exercise(
    id="02.2",
    title="How likely is a label?",
    name="label_score",
    difficulty=2,
    minutes=6,
    stub=code("""
        def label_score(log_probs, ids, begin):
            score = 0.0
            for t in range(begin, len(ids)):
                ...
            return score
    """),
    solution=code("""
        def label_score(log_probs, ids, begin):
            return sum(log_probs[t - 1, ids[t]] for t in range(begin, len(ids)))
    """),
    verify=_verify_score,
    hints=(
        "Row t of log_probs is written when token t has been read. Which row says something about token t itself?",
        "Each label token ids[t] is expected by the row before it. Add those logarithms from begin to the end.",
    ),
    wrong={
        code("""
            def label_score(log_probs, ids, begin):
                return sum(log_probs[t, ids[t]] for t in range(begin, len(ids)))
        """): "read row t - 1",
        code("""
            def label_score(log_probs, ids, begin):
                return sum(log_probs[t - 1, ids[t]] for t in range(begin, len(ids))) / (len(ids) - begin)
        """): "you take the mean",
        code("""
            def label_score(log_probs, ids, begin):
                return sum(log_probs[t - 1, ids[t]] for t in range(1, len(ids)))
        """): "context's own tokens",
        code("""
            def label_score(log_probs, ids, begin):
                return log_probs[begin - 1, ids[begin]]
        """): "first token is scored",
    },
    praise="`score_labels` does this for all labels of all messages, and reads what they share only once.",
)


# --- 02.3 ------------------------------------------------------------------------------------------------------------


def _verify_exact(answer):
    ours = number(answer(0.9, 10))
    if _same(ours, 9.0):
        raise NotYet("0.9 × 10 is the number of right tokens to expect; exact match asks that all ten be right")
    if _same(ours, 0.9):
        raise NotYet("that is the accuracy of one token; an answer of ten needs ten of them")
    if _same(ours, 1 - 0.1**10):
        raise NotYet("that is the chance that at least one token is right; all of them must be")
    if _same(ours, 1 - 0.9**10):
        raise NotYet("that is the chance that something is wrong; its complement is asked for")
    if not _same(ours, 0.9**10):
        raise NotYet(
            f"for p = 0.9 and ten tokens you get {ours:.4f}; ten independent events are all true with 0.9 ** 10"
        )
    if not _same(number(answer(0.5, 2)), 0.25):
        raise NotYet("right for ten tokens, not for two; use the length that is given")


EXACT = Exercise(
    id="02.3",
    title="From tokens to answers",
    name="exact_match",
    difficulty=1,
    minutes=3,
    stub=code("""
        def exact_match(p, length):
            ...
    """),
    solution=code("""
        def exact_match(p, length):
            return p**length
    """),
    verify=_verify_exact,
    hints=(
        "With one token it is p. With two, both must be right; take them as independent.",
        "A product of as many factors p as the answer has tokens.",
    ),
    wrong={
        code("""
            def exact_match(p, length):
                return p * length
        """): "number of right tokens",
        code("""
            def exact_match(p, length):
                return 1 - (1 - p) ** length
        """): "at least one token",
        code("""
            def exact_match(p, length):
                return 1 - p**length
        """): "something is wrong",
        code("""
            def exact_match(p, length):
                return p**10
        """): "not for two",
    },
    praise="90 % a token is 35 % for an answer of ten tokens.",
)


# --- 02.4 ------------------------------------------------------------------------------------------------------------


def _verify_ridge(answer):
    X, x = torch.randn(6, 3), torch.randn(3)
    y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(6)
    eye = torch.eye(3)

    def value(matrix):
        return (x @ torch.linalg.solve(matrix, X.T @ y)).item()

    given = answered(answer(X.clone(), y.clone(), x.clone(), 2.0))
    if isinstance(given, torch.Tensor) and given.numel() == 3:
        raise NotYet("w comes back; give back its value at x, the product w x")
    ours = number(given)
    if _same(ours, value(X.T @ X), 1e-4):
        raise NotYet("that is least squares; the penalty is left out. It is added to the diagonal of X.T @ X")
    if _same(ours, value(X.T @ X + 2.0), 1e-4):
        raise NotYet(
            "the penalty is added to every entry of X.T @ X; only its diagonal gets it: penalty * torch.eye(d)"
        )
    if _same(ours, value(X.T @ X + eye), 1e-4):
        raise NotYet("the diagonal gets 1 whatever the penalty is; multiply the identity by it")
    if _same(ours, value(X.T @ X + 4.0 * eye), 1e-4):
        raise NotYet("the penalty is squared; it is a variance already")
    if not _same(ours, value(X.T @ X + 2.0 * eye), 1e-4):
        raise NotYet(f"you get {ours:.4f}; (X'X + 2 I)^-1 X'y at x is {value(X.T @ X + 2.0 * eye):.4f}")
    if not torch.isfinite(torch.tensor(number(answer(X[:1], y[:1], x, 0.5)))):
        raise NotYet("right for six examples, but with one, fewer than variables, no number comes out")


RIDGE = Exercise(
    id="02.4",
    title="The best value from a few examples",
    name="ridge_value",
    difficulty=2,
    minutes=7,
    stub=code("""
        def ridge_value(X, y, x, penalty):
            d = X.shape[1]
            w = ...          # (X' X + penalty I)^-1 X' y
            return ...
    """),
    solution=code("""
        def ridge_value(X, y, x, penalty):
            d = X.shape[1]
            w = torch.linalg.solve(X.T @ X + penalty * torch.eye(d), X.T @ y)
            return x @ w
    """),
    verify=_verify_ridge,
    hints=(
        "torch.linalg.solve(M, v) gives M^-1 v without forming the inverse. What are M and v here?",
        "M is X.T @ X plus penalty on its diagonal, v is X.T @ y; the value is the product of x and the solution.",
    ),
    wrong={
        code("""
            def ridge_value(X, y, x, penalty):
                return x @ torch.linalg.pinv(X) @ y
        """): "that is least squares",
        code("""
            def ridge_value(X, y, x, penalty):
                return x @ torch.linalg.solve(X.T @ X + penalty, X.T @ y)
        """): "every entry",
        code("""
            def ridge_value(X, y, x, penalty):
                return x @ torch.linalg.solve(X.T @ X + penalty**2 * torch.eye(X.shape[1]), X.T @ y)
        """): "squared",
        code("""
            def ridge_value(X, y, x, penalty):
                return torch.linalg.solve(X.T @ X + penalty * torch.eye(X.shape[1]), X.T @ y)
        """): "w comes back",
    },
    praise="With the variance of the noise as penalty, no method does better on these functions.",
)


EXERCISES = [PROMPT, SCORE, EXACT, RIDGE]
