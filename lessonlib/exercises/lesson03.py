"""The exercises of 03 Prompts and calibration."""

import torch

from . import Exercise, NotYet, code
from .answers import answered


def _near(a, b, tolerance=1e-4) -> bool:
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and bool(torch.allclose(a, b, atol=tolerance))


# --- 03.1 ------------------------------------------------------------------------------------------------------------


def _verify_divide(answer):
    p, empty = [0.9, 0.1], [0.7, 0.3]
    q = [float(x) for x in answered(answer(list(p), list(empty)))]
    if len(q) != 2:
        raise NotYet(f"two labels go in, so two probabilities come out; you return {len(q)}")
    if _near(q, p):
        raise NotYet("your probabilities come back as they were; the content-free ones are not used")
    if _near(q, [0.9 / 0.7, 0.1 / 0.3]):
        raise NotYet("the division is right; divide by the sum as well, so that the two add up to 1")
    product = [0.63 / 0.66, 0.03 / 0.66]
    if _near(q, product) or _near(q, [0.63, 0.03]):
        raise NotYet("you multiply by the content-free probabilities, which makes the bias stronger; divide")
    if _near(q, [0.2, -0.2]) or sum(q) < 0.5:
        raise NotYet("you subtract; the paper's W is a diagonal matrix of 1 / p_cf, so it divides")
    if _near(q, torch.tensor([0.9 / 0.7, 0.1 / 0.3]).softmax(-1)):
        raise NotYet("you take a softmax of the quotients; they are no logits, divide them by their sum")
    if not _near(q, [0.79412, 0.20588]):
        raise NotYet(f"for 0.9 and 0.1 with the bias 0.7 and 0.3 you get {q}; the first should be near 0.794")
    three = [float(x) for x in answer([0.5, 0.3, 0.2], [0.6, 0.2, 0.2])]
    if not _near(three, [0.25, 0.45, 0.3]):
        raise NotYet(f"right for two labels; for three, 0.5, 0.3, 0.2 with 0.6, 0.2, 0.2, you get {three}")


DIVIDE = Exercise(
    id="03.1",
    title="Divide the bias out",
    name="without_bias",
    difficulty=1,
    minutes=4,
    stub=code("""
        def without_bias(p, p_empty):          # two lists: a probability for each label
            ...
    """),
    solution=code("""
        def without_bias(p, p_empty):
            quotients = [a / b for a, b in zip(p, p_empty)]
            return [q / sum(quotients) for q in quotients]
    """),
    verify=_verify_divide,
    hints=(
        "Which label does the model like before it has read anything? Divide each probability by that liking.",
        "quotients = [a / b for a, b in zip(p, p_empty)], and then each of them by sum(quotients).",
    ),
    wrong={
        code("""
            def without_bias(p, p_empty):
                return [a / b for a, b in zip(p, p_empty)]
        """): "add up to 1",
        code("""
            def without_bias(p, p_empty):
                q = [a * b for a, b in zip(p, p_empty)]
                return [x / sum(q) for x in q]
        """): "bias stronger",
        code("""
            def without_bias(p, p_empty):
                return [a - b for a, b in zip(p, p_empty)]
        """): "you subtract",
        code("""
            def without_bias(p, p_empty):
                return p
        """): "not used",
    },
    praise="One division a label, and no training at all.",
)


# --- 03.2 ------------------------------------------------------------------------------------------------------------


def _verify_calibrate(answer):
    p = torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.45, 0.55]])
    empty = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    mean = torch.tensor([0.6, 0.4])
    # As the model gives them: the labels share only a part of all probability, a different one for each text.
    scores, free = (0.01 * torch.tensor([[1.0], [3.0], [0.2]]) * p).log(), (0.05 * empty).log()
    kept = scores.clone(), free.clone()
    out = torch.as_tensor(answered(answer(*kept)))
    if not (torch.equal(kept[0], scores) and torch.equal(kept[1], free)):
        raise NotYet("your function changes the scores that it was given; make new tensors")
    if tuple(out.shape) != (3, 2):
        raise NotYet(f"one row a query and one column a label: (3, 2); yours is {tuple(out.shape)}")
    right = (p / mean) / (p / mean).sum(1, keepdim=True)
    logs = (p / empty.log().mean(0).exp()).log().log_softmax(-1).exp()
    one = (p / empty[0]) / (p / empty[0]).sum(1, keepdim=True)
    if _near(out, right.log()):
        raise NotYet("right, but as logarithms; give probabilities, so that each row adds up to 1")
    if _near(out, logs):
        raise NotYet("you average the logarithms; the paper averages the probabilities of the content-free inputs")
    if _near(out, one):
        raise NotYet("you use the first content-free input only; take the mean over all of them")
    if _near(out, p):
        raise NotYet("the rows are normalized, but the content-free inputs are not used")
    if not _near(out.sum(1), torch.ones(3)):
        raise NotYet("each row should add up to 1 over the labels; softmax(-1) turns log-probabilities into that")
    if not _near(out, right):
        raise NotYet(
            "the numbers differ: normalize both over the labels, average the content-free rows, divide, normalize"
        )


CALIBRATE = Exercise(
    id="03.2",
    title="Calibrate a whole table of scores",
    name="calibrated",
    difficulty=2,
    minutes=8,
    stub=code("""
        def calibrated(scores, empty):    # log-probabilities (queries, labels) and (content-free inputs, labels)
            p = scores.softmax(-1)
            ...
            return p
    """),
    solution=code("""
        def calibrated(scores, empty):
            p = scores.softmax(-1)
            p_empty = empty.softmax(-1).mean(0)
            q = p / p_empty
            return q / q.sum(-1, keepdim=True)
    """),
    verify=_verify_calibrate,
    hints=(
        "softmax(-1) of log-probabilities normalizes them over the labels. Average the content-free rows after it.",
        "p_empty = empty.softmax(-1).mean(0); then q = p / p_empty, and q / q.sum(-1, keepdim=True).",
    ),
    wrong={
        code("""
            def calibrated(scores, empty):
                q = scores.softmax(-1) / empty.log_softmax(-1).mean(0).exp()
                return q / q.sum(-1, keepdim=True)
        """): "average the logarithms",
        code("""
            def calibrated(scores, empty):
                q = scores.softmax(-1) / empty.softmax(-1)[0]
                return q / q.sum(-1, keepdim=True)
        """): "first content-free input only",
        code("""
            def calibrated(scores, empty):
                return scores.softmax(-1) / empty.softmax(-1).mean(0)
        """): "add up to 1",
        code("""
            def calibrated(scores, empty):
                return scores.softmax(-1)
        """): "not used",
    },
    praise="The next picture passes the whole grid through it.",
)


# --- 03.3 ------------------------------------------------------------------------------------------------------------


def _verify_parse(answer):
    words = ["unhappy", "happy"]
    said = {}
    for text in (
        " happy",
        " Unhappy.",
        "happy\n\nTicket: next",
        " unhappy",
        "",
        " I am not happy",
        ' "happy"',
    ):
        got = answer(text, list(words))
        said[text] = None if got is None else int(got)
    if set(said.values()) == {None}:
        raise NotYet("no answer at all is read; ' happy' should give 1, the word's place in the list")
    if said[" unhappy"] == 1 or said[" Unhappy."] == 1:
        raise NotYet("' unhappy' is read as happy, for the one word holds the other; compare whole words")
    if said[" I am not happy"] is not None:
        raise NotYet(
            "' I am not happy' is read as a label; an answer that is not one of the words and nothing else gives None"
        )
    if said[""] is not None:
        raise NotYet(f"an empty answer gives {said['']}; it should give None")
    if said["happy\n\nTicket: next"] != 1:
        raise NotYet("models write on after the answer; look at the first line only")
    if said[" Unhappy."] != 0:
        raise NotYet("' Unhappy.' should give 0: a capital letter and a full stop do not make it another word")
    if said[' "happy"'] != 1:
        raise NotYet("quotation marks around the word should not matter either; strip them")
    if said[" happy"] != 1 or said[" unhappy"] != 0:
        raise NotYet(f"' happy' gives {said[' happy']} and ' unhappy' {said[' unhappy']}; expected 1 and 0")


PARSE = Exercise(
    id="03.3",
    title="Read an answer",
    name="parse",
    difficulty=2,
    minutes=6,
    stub=code("""
        def parse(answer, words):         # the place of the word that was answered, or None
            first_line = answer.strip().partition("\\n")[0]
            ...
    """),
    solution=code("""
        def parse(answer, words):
            first_line = answer.strip().partition("\\n")[0]
            said = first_line.strip(' .!"').lower()
            return words.index(said) if said in words else None
    """),
    verify=_verify_parse,
    hints=(
        "Make the first line small letters, take spaces, full stops and quotation marks off its ends, then compare.",
        "said = first_line.strip(' .!\"').lower(); return words.index(said) if said in words else None",
    ),
    wrong={
        code("""
            def parse(answer, words):
                for i in (1, 0):
                    if words[i] in answer.lower():
                        return i
        """): "holds the other",
        code("""
            def parse(answer, words):
                for i, w in enumerate(words):
                    if w in answer.lower():
                        return i
        """): "nothing else",
        code("""
            def parse(answer, words):
                said = answer.strip(' ."').lower()
                return words.index(said) if said in words else None
        """): "first line only",
        code("""
            def parse(answer, words):
                said = answer.strip().partition('\\n')[0]
                return words.index(said) if said in words else None
        """): "capital letter",
    },
    praise="What it refuses is counted below, and not guessed.",
)


# --- 03.4 ------------------------------------------------------------------------------------------------------------


def _verify_count(answer):
    out = answered(answer(16, 576, 192, 30))
    try:
        prompt, prefix = (int(x) for x in out)
    except TypeError:
        raise NotYet(f"give back two numbers, the prompt's and the prefix's; you return {out!r}") from None
    if prompt == 16 * 576 * 30:
        raise NotYet("a prompt stands before the first layer only; it is not repeated in each layer")
    if prompt != 16 * 576:
        raise NotYet(f"for 16 tokens of width 576 the prompt has 9,216 numbers; you count {prompt:,}")
    if prefix == 16 * 192 * 30:
        raise NotYet("the prefix holds a key and a value for each token and layer; you count one of the two")
    if prefix == 16 * 2 * 576 * 30:
        raise NotYet("keys and values are d_kv wide, and d_kv is narrower than d where heads share them")
    if prefix == 16 * 2 * 192:
        raise NotYet("the prefix stands in every layer; multiply by their number")
    if prefix != 16 * 2 * 192 * 30:
        raise NotYet(f"for 16 tokens, d_kv 192 and 30 layers the prefix has 184,320 numbers; you count {prefix:,}")
    if tuple(answer(3, 8, 4, 2)) != (24, 48):
        raise NotYet(f"right for our model, but for (3, 8, 4, 2) you get {answer(3, 8, 4, 2)}; expected (24, 48)")


COUNT = Exercise(
    id="03.4",
    title="Count what a learned prompt trains",
    name="learned_parameters",
    difficulty=1,
    minutes=4,
    stub=code("""
        def learned_parameters(tokens, d, d_kv, layers):     # returns (the prompt's, the prefix's)
            ...
    """),
    solution=code("""
        def learned_parameters(tokens, d, d_kv, layers):
            return tokens * d, tokens * 2 * d_kv * layers
    """),
    verify=_verify_count,
    hints=(
        "A prompt is tokens × d numbers. A prefix has a key and a value for each token, in each layer.",
        "return tokens * d, tokens * 2 * d_kv * layers",
    ),
    wrong={
        code("""
            def learned_parameters(tokens, d, d_kv, layers):
                return tokens * d, tokens * d_kv * layers
        """): "one of the two",
        code("""
            def learned_parameters(tokens, d, d_kv, layers):
                return tokens * d, tokens * 2 * d * layers
        """): "d_kv is narrower",
        code("""
            def learned_parameters(tokens, d, d_kv, layers):
                return tokens * d * layers, tokens * 2 * d_kv * layers
        """): "before the first layer only",
        code("""
            def learned_parameters(tokens, d, d_kv, layers):
                return tokens * d
        """): "two numbers",
    },
    praise="Neither depends on how many weights the model has, only on its width and depth.",
)


# --- 03.5 ------------------------------------------------------------------------------------------------------------


def _verify_join(answer):
    generator = torch.Generator().manual_seed(5)
    P, X = torch.randn(2, 3, generator=generator), torch.randn(4, 5, 3, generator=generator)
    last = torch.tensor([4, 2, 3, 0])
    out = answered(answer(P.clone(), X.clone(), last.clone()))
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise NotYet("give back two things: the joined embeddings, and the new places of the last tokens")
    joined, moved = out
    if tuple(joined.shape) == (4, 10, 3) or tuple(joined.shape) == (4, 5, 3):
        raise NotYet(f"2 virtual tokens and 5 of the text are 7; your second dimension is {joined.shape[1]}")
    if tuple(joined.shape) != (4, 7, 3):
        raise NotYet(f"the joined embeddings should be (4, 7, 3); yours are {tuple(joined.shape)}")
    if _near(joined[:, -2:], P.expand(4, 2, 3)):
        raise NotYet("the prompt stands behind the texts; a causal model would never read it there")
    if not (_near(joined[:, :2], P.expand(4, 2, 3)) and _near(joined[:, 2:], X)):
        raise NotYet("first the prompt, the same for each text, and then the text as it was")
    if torch.equal(torch.as_tensor(moved), last):
        raise NotYet("the last tokens have moved up by the length of the prompt; their places have not")
    if not torch.equal(torch.as_tensor(moved), last + 2):
        raise NotYet(
            f"the last tokens stand at {(last + 2).tolist()} now; you return {torch.as_tensor(moved).tolist()}"
        )


JOIN = Exercise(
    id="03.5",
    title="Put a prompt in front",
    name="put_in_front",
    difficulty=2,
    minutes=6,
    stub=code("""
        def put_in_front(P, X, last):     # prompt (p, D), texts (B, T, D), place of each text's last token (B,)
            ...
            return X, last
    """),
    solution=code("""
        def put_in_front(P, X, last):
            joined = torch.cat([P.expand(len(X), -1, -1), X], dim=1)
            return joined, last + len(P)
    """),
    verify=_verify_join,
    hints=(
        "P.expand(len(X), -1, -1) repeats the prompt for each text without copying it; torch.cat joins along a dimension.",
        "joined = torch.cat([P.expand(len(X), -1, -1), X], dim=1), and every last token stands len(P) places further on.",
    ),
    wrong={
        code("""
            def put_in_front(P, X, last):
                return torch.cat([P.expand(len(X), -1, -1), X], 1), last
        """): "have moved up",
        code("""
            def put_in_front(P, X, last):
                return torch.cat([X, P.expand(len(X), -1, -1)], 1), last + len(P)
        """): "behind the texts",
        code("""
            def put_in_front(P, X, last):
                return torch.cat([P, X], 1), last + len(P)
        """): "RuntimeError",
        code("""
            def put_in_front(P, X, last):
                return torch.cat([P.expand(len(X), -1, -1), X], 1)
        """): "two things",
    },
    praise="That is all of prompt tuning but the training.",
)


EXERCISES = [DIVIDE, CALIBRATE, PARSE, COUNT, JOIN]
