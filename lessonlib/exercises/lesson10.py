"""The exercises of 10 Deployment."""

import math

import torch

from . import Exercise, NotYet, code
from .answers import answered, close, number, shaped

# --- 10.1 ------------------------------------------------------------------------------------------------------------


def _verify_gather(answer):
    generator = torch.Generator().manual_seed(10)
    x, A = torch.randn(4, 3, 6, generator=generator), torch.randn(5, 2, 6, generator=generator)
    rows = torch.tensor([4, 0, 0, 2])
    right = torch.stack([x[n] @ A[row].T for n, row in enumerate(rows.tolist())])
    ours = answered(answer(x.clone(), A.clone(), rows))
    if isinstance(ours, torch.Tensor) and ours.shape == (4, 2, 3):
        raise NotYet("the result stands on its side: each token should be a row, (N, T, r)")
    ours = shaped(ours, (4, 3, 2), "what comes down")
    if close(ours, x @ A[:4].mT):
        raise NotYet("row n gets adapter n; it should get adapter rows[n]")
    if close(ours, x @ A[rows[0]].T):
        raise NotYet("all rows get the first one's adapter")
    if close(ours, x @ A.mean(0).T) or close(ours, x @ A.sum(0).T):
        raise NotYet("the adapters are mixed; each row wants one of them by itself")
    if not close(ours, right):
        raise NotYet("the numbers differ; row n should be x[n] times A[rows[n]] transposed")


GATHER = Exercise(
    id="10.1",
    title="Each row its own adapter",
    name="down",
    difficulty=2,
    minutes=6,
    stub=code("""
        def down(x, A, rows):
            ...    # x (N, T, d_in), A (n, r, d_in), rows (N,): the adapter of each row
    """),
    solution=code("""
        def down(x, A, rows):
            return x @ A[rows].mT
    """),
    verify=_verify_gather,
    hints=(
        "A tensor of numbers can be an index: A[rows] holds one matrix for each row of the batch, (N, r, d_in).",
        "A product of two stacks of matrices multiplies them pair by pair; .mT transposes each matrix of a stack.",
    ),
    wrong={
        code("""
            def down(x, A, rows):
                return x @ A[:len(x)].mT
        """): "row n gets adapter n",
        code("""
            def down(x, A, rows):
                return x @ A[rows[0]].T
        """): "the first one's adapter",
        code("""
            def down(x, A, rows):
                return x @ A.mean(0).T
        """): "are mixed",
        code("""
            def down(x, A, rows):
                return A[rows] @ x.mT
        """): "on its side",
    },
    praise="One gather and one batched product, however many adapters there are.",
)

# --- 10.2 ------------------------------------------------------------------------------------------------------------


def _verify_trim(answer):
    update = torch.tensor([[0.1, -4.0, 2.0], [-0.3, 1.0, 3.0]])
    given = update.clone()
    ours = shaped(answer(given, 0.5), (2, 3), "what is left")
    if not torch.equal(given, update):
        raise NotYet("your function changes the update itself; give back a new tensor")
    kept = torch.tensor([[0.0, -4.0, 2.0], [0.0, 0.0, 3.0]])
    if close(ours, torch.tensor([[0.0, 0.0, 2.0], [0.0, 1.0, 3.0]])):
        raise NotYet("-4 is gone: the largest are meant in magnitude, whatever their sign")
    if close(ours, update - kept):
        raise NotYet("you keep the small ones and drop the large ones")
    if close(ours, kept.abs()):
        raise NotYet("the signs are lost; TIES is about to vote on them")
    if close(ours, kept / 0.5):
        raise NotYet("that is dropout's habit: what stays is not made larger here")
    if not close(ours, kept):
        raise NotYet("of six entries at density 0.5 the three largest in magnitude stay: -4, 3 and 2")
    third = answer(update, 1 / 3)
    if not close(third, torch.tensor([[0.0, -4.0, 0.0], [0.0, 0.0, 3.0]])):
        raise NotYet("right for a half, but at density 1/3 of six entries two should stay")


TRIM = Exercise(
    id="10.2",
    title="Trim",
    name="trimmed",
    difficulty=2,
    minutes=6,
    stub=code("""
        def trimmed(update, density):
            ...    # keep the share `density`, the largest in magnitude; zero for the others
    """),
    solution=code("""
        def trimmed(update, density):
            size = update.abs()
            k = round(density * update.numel())
            smallest = size.flatten().topk(k).values.min()
            return update * (size >= smallest)
    """),
    verify=_verify_trim,
    hints=(
        "How many stay? density times the number of entries. topk finds the largest of a flat tensor.",
        "The smallest of the k largest magnitudes is a threshold: keep what is at least as large.",
    ),
    wrong={
        code("""
            def trimmed(update, density):
                k = round(density * update.numel())
                return update * (update >= update.flatten().topk(k).values.min())
        """): "whatever their sign",
        code("""
            def trimmed(update, density):
                k = round(density * update.numel())
                return update * (update.abs() < update.abs().flatten().topk(k).values.min())
        """): "drop the large ones",
        code("""
            def trimmed(update, density):
                k = round(density * update.numel())
                return update.abs() * (update.abs() >= update.abs().flatten().topk(k).values.min())
        """): "signs are lost",
        code("""
            def trimmed(update, density):
                return update * (update.abs() >= update.abs().median())
        """): "three largest",
    },
    praise="The small changes are mostly noise that would outvote another adapter's large ones.",
)

# --- 10.3 ------------------------------------------------------------------------------------------------------------


def _verify_nearest(answer):
    generator = torch.Generator().manual_seed(10)
    references = -torch.rand(3, 4, 5, generator=generator)  # two of them nearly alike
    references[2] = references[0] + 0.05
    wanted = torch.tensor([2, 0, 1, 2])
    noise = 0.01 * torch.randn(4, 5, generator=generator)
    replies = torch.stack([references[who, n] for n, who in enumerate(wanted.tolist())]) + noise
    ours = answered(answer(replies, references))
    ours = torch.as_tensor(ours)
    if ours.shape == (3,):
        raise NotYet("one number for each adapter comes back; one for each reply is asked for")
    if ours.shape != (4,):
        raise NotYet(f"one number for each of 4 replies is asked for; yours has the shape {tuple(ours.shape)}")
    gaps = (references - replies).abs().sum(-1)  # (K, N)
    if torch.equal(ours, gaps.argmax(0)) and not torch.equal(ours, wanted):
        raise NotYet("you name the adapter that is farthest from the reply")
    if torch.equal(ours, (references - replies).sum(-1).argmin(0)):
        raise NotYet("differences of both signs cancel; take their absolute values or squares first")
    if torch.equal(ours, replies.argmax(-1)):
        raise NotYet("that is the label that the reply prefers; the adapter behind it is asked for")
    if not torch.equal(ours, wanted):
        raise NotYet(f"the replies came from adapters {wanted.tolist()}; you say {ours.tolist()}")


NEAREST = Exercise(
    id="10.3",
    title="Who answered?",
    name="who_answered",
    difficulty=2,
    minutes=6,
    stub=code("""
        def who_answered(replies, references):
            ...    # replies (N, C); references (K, N, C): what each of K adapters says to the same N prompts
    """),
    solution=code("""
        def who_answered(replies, references):
            return (references - replies).abs().sum(-1).argmin(0)    # (K, N, C) -> (K, N) -> (N,)
    """),
    verify=_verify_nearest,
    hints=(
        "replies has no axis for the adapters; torch compares it with each of them: references - replies is (K, N, C).",
        "Sum the absolute differences over the labels, then ask which adapter's sum is smallest, for each reply.",
    ),
    wrong={
        code("""
            def who_answered(replies, references):
                return (references - replies).sum(-1).argmin(0)
        """): "cancel",
        code("""
            def who_answered(replies, references):
                return (references - replies).abs().sum(-1).argmax(0)
        """): "farthest",
        code("""
            def who_answered(replies, references):
                return (references - replies).abs().sum(-1).argmin(1)
        """): "one for each reply",
        code("""
            def who_answered(replies, references):
                return replies.argmax(-1)
        """): "the label that the reply prefers",
    },
    praise="A label can be the same by chance. Eight log-probabilities can not.",
)

# --- 10.4 ------------------------------------------------------------------------------------------------------------


def _verify_percentile(answer):
    values = [float((37 * i) % 100 + 1) for i in range(100)]  # 1 to 100, shuffled
    given = list(values)
    ours = number(answer(given, 95))
    if given != values:
        raise NotYet("your function sorts the list that it was given; use sorted(...), which makes a new one")
    if math.isclose(ours, 0.95 * 100):
        if not math.isclose(number(answer([1.0, 1.0, 1.0, 9.0], 95)), 9.0):
            raise NotYet("right for a hundred values, but of 1, 1, 1 and 9 seconds the p95 is 9: round up")
        if not math.isclose(number(answer([1.0, 2.0, 3.0, 4.0], 50)), 2.0):
            raise NotYet("right for p95, but half of 1, 2, 3 and 4 seconds are answered within 2")
        return
    if math.isclose(ours, values[94]):
        raise NotYet("the values have to be sorted first")
    if math.isclose(ours, 96.0):
        raise NotYet("95 of 100 requests are answered within 95 seconds here; you are one place too far")
    if math.isclose(ours, sum(values) / 100):
        raise NotYet("that is the mean, which one slow request can move and which nobody waits for")
    if math.isclose(ours, 6.0) or math.isclose(ours, 5.0):
        raise NotYet("you count from the slow end; p95 is the time that 95 of 100 requests keep")
    raise NotYet(f"for 1 to 100 seconds in any order the p95 is 95; yours is {ours:g}")


PERCENTILE = Exercise(
    id="10.4",
    title="The time that most requests keep",
    name="percentile",
    difficulty=1,
    minutes=4,
    stub=code("""
        def percentile(seconds, percent):
            ...    # the smallest time within which so many per cent are answered
    """),
    solution=code("""
        import math

        def percentile(seconds, percent):
            place = math.ceil(percent / 100 * len(seconds))
            return sorted(seconds)[place - 1]
    """),
    verify=_verify_percentile,
    hints=(
        "Sort the times. Of a hundred, which place holds the time that 95 do not exceed? Python counts from 0.",
        "place = math.ceil(percent / 100 * len(seconds)), and the value at place - 1.",
    ),
    wrong={
        code("""
            def percentile(seconds, percent):
                return sum(seconds) / len(seconds)
        """): "the mean",
        code("""
            def percentile(seconds, percent):
                return seconds[int(percent / 100 * len(seconds)) - 1]
        """): "sorted first",
        code("""
            def percentile(seconds, percent):
                return sorted(seconds)[int(percent / 100 * len(seconds))]
        """): "one place too far",
        code("""
            def percentile(seconds, percent):
                return sorted(seconds)[int(percent / 100 * len(seconds)) - 1]
        """): "round up",
    },
    praise="Nobody waits for the mean. One customer in twenty waits longer than the p95.",
)

# --- 10.5 ------------------------------------------------------------------------------------------------------------


def _verify_cache(answer):
    trace = [0, 1, 0, 2, 0, 1, 3, 0, 0, 2]
    ours = answered(answer(list(trace), 2))
    if isinstance(ours, int | float) and not isinstance(ours, bool):
        raise NotYet("one number comes back; for each request True or False is asked for")
    ours = [bool(each) for each in ours]
    right = [False, False, True, False, True, False, False, False, True, False]
    first_in = [False, False, True, False, False, False, False, False, True, False]
    if ours == [not hit for hit in right]:
        raise NotYet("True and False have changed places: a request that finds its adapter is True")
    if ours == [n in trace[:i] for i, n in enumerate(trace)]:
        raise NotYet("you never drop an adapter; only k are held at once")
    if ours == first_in:
        raise NotYet(
            "you drop the one that was loaded first, though it may have been used just now; drop the one whose last "
            "use is longest ago"
        )
    if len(ours) != len(trace):
        raise NotYet(f"{len(trace)} requests, {len(ours)} answers: give one for each")
    if ours != right:
        place = next(i for i, pair in enumerate(zip(ours, right)) if pair[0] != pair[1])
        raise NotYet(f"with two held, request {place} of {trace} should be {right[place]} (counted from 0)")
    if [bool(each) for each in answer(["a", "b", "c", "a"], 3)] != [False, False, False, True]:
        raise NotYet("right for two held, but with three held the fourth of a, b, c, a finds its adapter")


CACHE = Exercise(
    id="10.5",
    title="Who is still here?",
    name="found",
    difficulty=3,
    minutes=10,
    stub=code("""
        def found(trace, k):
            ...    # for each request: is its adapter among the k that were used last?
    """),
    solution=code("""
        def found(trace, k):
            held, hits = [], []    # the one used last stands last
            for name in trace:
                hits.append(name in held)
                held = [other for other in held if other != name] + [name]
                held = held[-k:]
            return hits
    """),
    verify=_verify_cache,
    hints=(
        "Keep a list of who is held, in the order of their last use. What happens to it when somebody is found?",
        "Take the name out of the list, put it at the end, and keep the last k.",
    ),
    wrong={
        code("""
            def found(trace, k):
                return [name in trace[:i] for i, name in enumerate(trace)]
        """): "never drop",
        code("""
            def found(trace, k):
                held, hits = [], []
                for name in trace:
                    hits.append(name in held)
                    if name not in held:
                        held = (held + [name])[-k:]
                return hits
        """): "loaded first",
        code("""
            def found(trace, k):
                held, misses = [], []
                for name in trace:
                    misses.append(name not in held)
                    held = ([other for other in held if other != name] + [name])[-k:]
                return misses
        """): "changed places",
        code("""
            def found(trace, k):
                return sum(name in trace[:i] for i, name in enumerate(trace))
        """): "True or False",
    },
    praise="The engine does the same with its adapters.",
)

EXERCISES = [GATHER, TRIM, NEAREST, PERCENTILE, CACHE]
