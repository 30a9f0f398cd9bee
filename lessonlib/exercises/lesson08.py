"""The exercises of 08 Choosing a method."""

import math

import torch

from . import Exercise, NotYet, code
from .answers import answered, number, refuse_slips

# --- 08.1 ------------------------------------------------------------------------------------------------------------

TRIALS = [
    {"rate": 1e-3, "validation": 0.61, "test": 0.66},
    {"rate": 2e-3, "validation": 0.74, "test": 0.70},
    {"rate": 4e-3, "validation": 0.72, "test": 0.78},
]


def _verify_honest(answer):
    trials = [dict(trial) for trial in TRIALS]
    ours = answered(answer(trials))
    if trials != TRIALS:
        raise NotYet("your function changes the trials themselves; only read them")
    if isinstance(ours, dict):
        raise NotYet("the whole trial comes back; give the accuracy on the test tickets alone")
    slips = {
        0.78: "that is the best of the test accuracies: the test tickets have chosen, so they judge no more",
        0.74: "the right trial, but its validation accuracy: as a maximum of three it flatters; give the test one",
        2e-3: "that is the learning rate; give the accuracy that it reached on the test tickets",
        (0.66 + 0.70 + 0.78) / 3: "that is the mean over all trials; one of them has been chosen",
    }
    ours = number(ours)
    refuse_slips(ours, slips)
    if not math.isclose(ours, 0.70, abs_tol=1e-9):
        raise NotYet(f"{ours:g} comes back; which trial has the best validation accuracy, and what is its test?")
    if number(answer([dict(trial) for trial in TRIALS[1:] + TRIALS[:1]])) != 0.70:
        raise NotYet("right, but with the trials in another order it is not; look for the best, not for a place")


HONEST = Exercise(
    id="08.1",
    title="The score that counts",
    name="honest_score",
    difficulty=1,
    minutes=4,
    stub=code("""
        def honest_score(trials):
            # trials: [{'rate': 0.001, 'validation': 0.61, 'test': 0.66}, ...]
            ...
    """),
    solution=code("""
        def honest_score(trials):
            best = max(trials, key=lambda trial: trial['validation'])
            return best['test']
    """),
    verify=_verify_honest,
    hints=(
        "Two sets of tickets, two jobs: one chooses the trial, the other says how good it is.",
        "max(trials, key=lambda trial: trial['validation']) is the chosen trial; its 'test' is the answer.",
    ),
    wrong={
        code("""
            def honest_score(trials):
                return max(trial['test'] for trial in trials)
        """): "the test tickets have chosen",
        code("""
            def honest_score(trials):
                return max(trial['validation'] for trial in trials)
        """): "it flatters",
        code("""
            def honest_score(trials):
                return max(trials, key=lambda trial: trial['validation'])
        """): "the whole trial",
        code("""
            def honest_score(trials):
                return trials[1]['test']
        """): "not for a place",
    },
    praise="Validation chooses, test judges, and neither does both.",
)


# --- 08.2 ------------------------------------------------------------------------------------------------------------


def _answers() -> tuple[torch.Tensor, torch.Tensor]:
    """200 tickets: a and b agree on 190; of the other ten a has eight right and b two."""
    b = torch.tensor([1.0] * 160 + [0.0] * 40)
    a = b.clone()
    a[160:168], a[:2] = 1.0, 0.0
    return a, b


def _verify_paired(answer):
    a, b = _answers()
    out = answered(answer(a.clone(), b.clone()))
    if not isinstance(out, tuple | list) or len(out) != 3:
        raise NotYet("give back three numbers: the difference, and the two ends of its interval")
    difference, low, high = (number(value) for value in out)
    if math.isclose(difference, -0.03, abs_tol=1e-6):
        raise NotYet("the sign is turned round: a's accuracy minus b's")
    if not math.isclose(difference, 0.03, abs_tol=1e-6):
        raise NotYet(f"the difference is {difference:g}; it should be the mean of the gains, (8 - 2) / 200")
    if low > high:
        raise NotYet("the lower end stands above the upper one; the order is difference, low, high")
    width = high - low
    if width < 1e-6:
        raise NotYet("all draws have the same mean: draw with replacement, or each draw is the same 200 tickets")
    if width >= 1:
        raise NotYet("that is the spread of single tickets; take the mean of each draw first, then its quantiles")
    if width > 0.11:
        raise NotYet(
            "twice as wide as it should be: a and b were drawn apart. They answered the same tickets, so draw "
            "tickets, and with each both answers"
        )
    # By hand: the gains' variance is 10 / 200 - 0.03 ** 2, so the mean's deviation 0.0157 and 95 % of it 0.061 wide.
    if not 0.052 < width < 0.071 or not low < 0.03 < high:
        raise NotYet(f"the interval is {width:.3f} wide, it should be about 0.06: 95 %, from 0.025 to 0.975")


PAIRED = Exercise(
    id="08.2",
    title="Is it a difference?",
    name="paired_interval",
    difficulty=2,
    minutes=8,
    stub=code("""
        def paired_interval(a, b):
            gain = a - b      # for each ticket: 1, 0 or -1
            rows = torch.randint(len(gain), (2000, len(gain)))      # 2000 draws of tickets, with replacement
            ...
    """),
    solution=code("""
        def paired_interval(a, b):
            gain = a - b
            rows = torch.randint(len(gain), (2000, len(gain)))
            means = gain[rows].mean(1)
            low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
            return gain.mean().item(), low, high
    """),
    verify=_verify_paired,
    hints=(
        "Each row of `rows` is another possible test set. What would the mean gain have been on it?",
        "gain[rows].mean(1) holds 2000 means; their quantiles 0.025 and 0.975 are the interval's ends.",
    ),
    wrong={
        code("""
            def paired_interval(a, b):
                draw = lambda x: x[torch.randint(len(x), (2000, len(x)))].mean(1)
                low, high = (draw(a) - draw(b)).quantile(torch.tensor([0.025, 0.975])).tolist()
                return (a - b).mean().item(), low, high
        """): "drawn apart",
        code("""
            def paired_interval(a, b):
                gain = b - a
                rows = torch.randint(len(gain), (2000, len(gain)))
                low, high = gain[rows].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
                return gain.mean().item(), low, high
        """): "turned round",
        code("""
            def paired_interval(a, b):
                gain = a - b
                rows = torch.stack([torch.randperm(len(gain)) for _ in range(200)])
                means = gain[rows].mean(1)
                return gain.mean().item(), means.min().item(), means.min().item()
        """): "with replacement",
        code("""
            def paired_interval(a, b):
                gain = a - b
                low, high = gain.quantile(torch.tensor([0.0, 1.0])).tolist()
                return gain.mean().item(), low, high
        """): "spread of single tickets",
    },
    praise="Where two models fail on the same tickets, pairing shows what 200 tickets alone would hide.",
)


# --- 08.3 ------------------------------------------------------------------------------------------------------------

WAYS = {
    "ask": (0, 0.5),
    "prompt": (1, 0.6),
    "slow prompt": (9, 0.6),
    "small": (4, 0.8),
    "large": (9, 0.8),
    "huge": (50, 0.9),
}


def _verify_front(answer):
    found = answered(answer(dict(WAYS)))
    if isinstance(found, str) or not isinstance(found, list | tuple | set | dict | frozenset):
        raise NotYet(f"a {type(found).__name__} comes back; give back the names, as a list or a set")
    names = set(found)
    if names - WAYS.keys():
        raise NotYet("something comes back that is no name; give back the keys of `ways`")
    if not names:
        raise NotYet("nothing is left: each way is at most as dear as itself; someone else has to be better in one")
    if names == {"huge"}:
        raise NotYet("that is the most accurate alone; the cheap ones that nobody beats at their price count as well")
    if names == set(WAYS):
        raise NotYet("all are left, yet 'large' costs more than 'small' and is no better")
    if {"large", "slow prompt"} & names:
        raise NotYet(
            "one with the same accuracy at a higher cost is left: 'at least as good', and better in one of the two"
        )
    if names != {"ask", "prompt", "small", "huge"}:
        raise NotYet(
            f"{', '.join(sorted(names))} come back; one is beaten if another costs no more and is right no less"
        )
    twins = {"one": (3, 0.7), "other": (3, 0.7)}
    if set(answer(twins)) != set(twins):
        raise NotYet("right, but of two that are equal in both none beats the other; both stay")


FRONT = Exercise(
    id="08.3",
    title="Nobody does better for less",
    name="not_beaten",
    difficulty=2,
    minutes=7,
    stub=code("""
        def not_beaten(ways):
            # ways: {'LoRA': (cost, accuracy), ...}
            return [name for name in ways]      # which of them?
    """),
    solution=code("""
        def not_beaten(ways):
            def beats(a, b):
                return a != b and a[0] <= b[0] and a[1] >= b[1]
            return [name for name, way in ways.items() if not any(beats(other, way) for other in ways.values())]
    """),
    verify=_verify_front,
    hints=(
        "a beats b where it costs no more, is right no less often, and the two are not the same in both.",
        "Keep the names for which any(beats(other, way) for other in ways.values()) is False.",
    ),
    wrong={
        code("""
            def not_beaten(ways):
                return [max(ways, key=lambda name: ways[name][1])]
        """): "the most accurate alone",
        code("""
            def not_beaten(ways):
                return [n for n, (c, a) in ways.items() if not any(d < c and b > a for d, b in ways.values())]
        """): "same accuracy at a higher cost",
        code("""
            def not_beaten(ways):
                return [n for n, (c, a) in ways.items() if not any(d <= c and b >= a for d, b in ways.values())]
        """): "nothing is left",
        code("""
            def not_beaten(ways):
                return list(ways)
        """): "all are left",
    },
    praise="What is left is a matter of what you can pay; the rest is a mistake at any price.",
)


# --- 08.4 ------------------------------------------------------------------------------------------------------------


def _verify_break_even(answer):
    ours = number(answer(100.0, 0.5, 0.2))
    slips = {
        100 / 0.5: "you divide by the whole time of a prompted answer; what an answer saves is the difference",
        100 / 0.3: "not a whole number: an answer is given or not. The first that has paid is the next whole one",
        333.0: "rounded down: after that many the training has not quite been paid for",
        100 / 0.2: "you divide by the time of a trained answer; what an answer saves is the difference",
        -333.0: "negative: prompted minus trained is what an answer saves",
    }
    refuse_slips(ours, slips)
    if ours != 334:
        raise NotYet(f"for 100 s of training, 0.5 s and 0.2 s an answer you get {ours:g}; each answer saves 0.3 s")
    for prompted in (0.2, 0.1):
        try:
            never = number(answer(100.0, prompted, 0.2))
        except ZeroDivisionError:
            raise NotYet(
                "right; but where the prompt is as fast, you divide by zero: it is never, math.inf"
            ) from None
        if never != math.inf:
            raise NotYet(
                f"right; but a prompt that takes {prompted} s is no slower, so training never pays: math.inf"
            )


BREAK_EVEN = Exercise(
    id="08.4",
    title="When has training paid?",
    name="break_even",
    difficulty=1,
    minutes=4,
    stub=code("""
        def break_even(training, prompted, trained):
            # seconds: of the training, of a prompted answer, of the trained model's answer
            ...
    """),
    solution=code("""
        def break_even(training, prompted, trained):
            import math
            saved = prompted - trained
            return math.ceil(training / saved) if saved > 0 else math.inf
    """),
    verify=_verify_break_even,
    hints=(
        "How many seconds does each answer save? How many answers make up for the training?",
        "math.ceil(training / (prompted - trained)), and math.inf where nothing is saved.",
    ),
    wrong={
        code("""
            def break_even(training, prompted, trained):
                return training / prompted
        """): "whole time of a prompted answer",
        code("""
            def break_even(training, prompted, trained):
                return int(training / (prompted - trained))
        """): "rounded down",
        code("""
            def break_even(training, prompted, trained):
                import math
                return math.ceil(training / (prompted - trained))
        """): "never",
        code("""
            def break_even(training, prompted, trained):
                return training / (prompted - trained)
        """): "not a whole number",
    },
    praise="A long prompt is a price that is paid with every answer; training is paid once.",
)


# --- 08.5 ------------------------------------------------------------------------------------------------------------


def _verify_masters(answer):
    weight = torch.nn.Parameter(torch.tensor([0.5, -0.25, 1.0], dtype=torch.bfloat16))
    master = weight.detach().float().requires_grad_()
    optimizer = torch.optim.SGD([master], lr=1e-4)
    moved, kind = 0.0, weight.dtype
    for step in range(1, 21):
        weight.grad = torch.ones_like(weight)
        answer([weight], [master], optimizer)
        moved += 1e-4
        _one_step(weight, master, kind, torch.tensor([0.5, -0.25, 1.0]) - moved, step)
    if math.isclose(weight[0].item(), 0.5):
        raise NotYet(
            "the weights have not moved in 20 steps, the masters have: copy the masters back after each step"
        )


def _one_step(weight, master, kind, right, step: int):
    if weight.dtype != kind:
        raise NotYet(
            "the weight is float32 now: the model would compute with it. Copy the values: weight.copy_(master)"
        )
    if master.grad is None and torch.equal(master.detach(), torch.tensor([0.5, -0.25, 1.0])):
        raise NotYet(
            "the masters have no gradient, so the optimizer leaves them alone: master.grad = weight.grad.float()"
        )
    if weight.grad is not None and weight.grad.any():
        raise NotYet(
            "the weight's gradient is still there; the next backward pass would add to it: weight.grad = None"
        )
    if not torch.allclose(master.detach(), right, atol=1e-6):
        if torch.equal(master.detach(), weight.detach().float()):
            raise NotYet("the masters are as coarse as the weights: they must never be read back from bfloat16")
        raise NotYet(f"after step {step} the masters are not where the optimizer should have taken them")
    if not torch.equal(weight.detach(), master.detach().to(kind)):
        raise NotYet("the masters have moved, the weights have not followed: weight.copy_(master)")


MASTERS = Exercise(
    id="08.5",
    title="A step with masters",
    name="step_with_masters",
    difficulty=3,
    minutes=8,
    stub=code("""
        def step_with_masters(weights, masters, optimizer):      # the optimizer moves the masters
            for weight, master in zip(weights, masters):
                ...    # what does a master need before the step?
            optimizer.step()
            ...    # and the weights after it?
    """),
    solution=code("""
        def step_with_masters(weights, masters, optimizer):
            for weight, master in zip(weights, masters):
                master.grad, weight.grad = weight.grad.float(), None
            optimizer.step()
            with torch.no_grad():
                for weight, master in zip(weights, masters):
                    weight.copy_(master)
    """),
    verify=_verify_masters,
    hints=(
        "The model computes gradients for the bfloat16 weights; the optimizer knows the float32 masters alone. Carry "
        "the one over before the step, and the other back after it.",
        "Before: master.grad = weight.grad.float(), weight.grad = None. After, under torch.no_grad(): weight.copy_(master).",
    ),
    wrong={
        code("""
            def step_with_masters(weights, masters, optimizer):
                for w, m in zip(weights, masters):
                    w.grad = None
                optimizer.step()
        """): "have no gradient",
        code("""
            def step_with_masters(weights, masters, optimizer):
                for w, m in zip(weights, masters):
                    m.grad, w.grad = w.grad.float(), None
                optimizer.step()
        """): "have not followed",
        code("""
            def step_with_masters(weights, masters, optimizer):
                for w, m in zip(weights, masters):
                    m.grad, w.grad = w.grad.float(), None
                optimizer.step()
                for w, m in zip(weights, masters):
                    w.data = m.data
        """): "float32 now",
        code("""
            def step_with_masters(weights, masters, optimizer):
                for w, m in zip(weights, masters):
                    m.grad, w.grad = w.grad.float(), None
                optimizer.step()
                with torch.no_grad():
                    for w, m in zip(weights, masters):
                        w.copy_(m)
                        m.copy_(w)
        """): "never be read back",
        code("""
            def step_with_masters(weights, masters, optimizer):
                for w, m in zip(weights, masters):
                    m.grad = w.grad.float()
                optimizer.step()
                with torch.no_grad():
                    for w, m in zip(weights, masters):
                        w.copy_(m)
        """): "would add to it",
    },
    praise="Small steps add up in float32 until the bfloat16 weight can follow.",
)


EXERCISES = (HONEST, PAIRED, FRONT, BREAK_EVEN, MASTERS)
