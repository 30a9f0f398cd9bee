"""The exercises of 04 Chain of thought."""

from fractions import Fraction

from . import Exercise, NotYet, code
from .answers import answered, number


def _listed(values) -> list:
    values = answered(values)
    if not isinstance(values, list | tuple):
        raise NotYet(f"a {type(values).__name__} comes back where a list is asked for")
    return list(values)


# --- 04.1 ------------------------------------------------------------------------------------------------------------


def _verify_chain(answer):
    ours = _listed(answer(4, [("+", 3), ("×", 9), ("+", 7)]))
    if ours == [7, 63, 70]:
        raise NotYet("the results grow beyond ten; each is taken modulo ten at once, so that every step is one token")
    if ours == [7, 63, 0] or ours == [7, 63 % 10, 70]:
        raise NotYet("one of the results is not taken modulo ten; each of them is a digit")
    if ours == [4, 7, 3, 0]:
        raise NotYet("your list begins with the start itself; it stands in the question, the chain is what follows")
    if ours == [0] or ours == [7, 3]:
        raise NotYet(f"there are three steps and you give {len(ours)} of their results; the chain names all three")
    if ours == [7, 6, 1]:
        raise NotYet("each step begins from the start again; it should begin from the result of the step before")
    if ours != [7, 3, 0]:
        raise NotYet(
            f"4 +3 ×9 +7 gives you {ours}; 4 + 3 = 7, 7 × 9 = 63 which is 3 modulo ten, 3 + 7 = 10 which is 0"
        )
    if _listed(answer(2, [("-", 5)])) != [7]:
        raise NotYet("right for + and ×, but 2 - 5 should give 7: -3 modulo ten, as Python's % does it")


CHAIN = Exercise(
    id="04.1",
    title="Write the chain",
    name="results",
    difficulty=1,
    minutes=4,
    stub=code("""
        def results(begin, steps):          # steps: such as [("+", 3), ("×", 9)]
            chain = []
            for sign, digit in steps:
                ...
            return ...
    """),
    solution=code("""
        def results(begin, steps):
            digits = []
            for sign, digit in steps:
                begin = {"+": begin + digit, "-": begin - digit, "×": begin * digit}[sign] % 10
                digits.append(begin)
            return digits
    """),
    verify=_verify_chain,
    hints=(
        "Keep a running value. What does one step do to it, and what has to be written down?",
        "value = {'+': value + digit, …}[sign] % 10 inside the loop, and append it each time.",
    ),
    wrong={
        code("""
            def results(begin, steps):
                chain = []
                for sign, digit in steps:
                    begin = {"+": begin + digit, "-": begin - digit, "×": begin * digit}[sign]
                    chain.append(begin)
                return chain
        """): "modulo ten at once",
        code("""
            def results(begin, steps):
                for sign, digit in steps:
                    begin = {"+": begin + digit, "-": begin - digit, "×": begin * digit}[sign] % 10
                return [begin]
        """): "names all three",
        code("""
            def results(begin, steps):
                chain = [begin]
                for sign, digit in steps:
                    chain.append({"+": chain[-1] + digit, "-": chain[-1] - digit, "×": chain[-1] * digit}[sign] % 10)
                return chain
        """): "begins with the start itself",
        code("""
            def results(begin, steps):
                return [{"+": begin + digit, "-": begin - digit, "×": begin * digit}[sign] % 10 for sign, digit in steps]
        """): "from the result of the step before",
    },
    praise="These digits are all that the network is taught to write.",
)


# --- 04.2 ------------------------------------------------------------------------------------------------------------

_PLAIN = "5 - 3 = 2 lamps are left. The answer is 2."
_BEHIND = "She has 4 * 6 = 24. The answer is 24, of which 7 are red."
_TWICE = "The answer is 5. No, wait: 5 + 4 = 9. The answer is 9."


def _number_or_none(value):
    return None if value is None else number(value)


def _verify_read(answer):
    plain = _number_or_none(answer(_PLAIN))
    if plain is None:
        raise NotYet("nothing comes back; does the function end in a return?")
    if plain == 5:
        raise NotYet(
            "you take the first number of the text, which is a step on the way; the answer stands at the end"
        )
    if plain != 2:
        raise NotYet(f"{_PLAIN!r} gives you {plain}, not 2")
    behind = _number_or_none(answer(_BEHIND))
    if behind == 7:
        raise NotYet(f"{_BEHIND!r} gives you 7, the last number; the answer is the first number behind 'answer is'")
    if behind != 24:
        raise NotYet(f"{_BEHIND!r} gives you {behind}, not 24")
    twice = _number_or_none(answer(_TWICE))
    if twice == 5:
        raise NotYet(f"{_TWICE!r} gives you 5; the model corrects itself, so the last 'answer is' counts")
    if twice != 9:
        raise NotYet(f"{_TWICE!r} gives you {twice}, not 9")
    if _number_or_none(answer("2 + 5 = 7, so 7 are")) != 7:
        raise NotYet(
            "right where 'answer is' stands; without these words take the last number: '2 + 5 = 7, so 7 are' is 7"
        )
    if _number_or_none(answer("I do not know.")) is not None:
        raise NotYet("'I do not know.' holds no number; give back None, not a number of your own")


READ = Exercise(
    id="04.2",
    title="What did it answer?",
    name="answer_of",
    difficulty=2,
    minutes=7,
    stub=code("""
        import re

        def answer_of(text):
            end = ...                     # what to look at
            numbers = re.findall(r"\\d+", text)
            return ...                    # a number, or None
    """),
    solution=code("""
        import re

        def answer_of(text):
            parts = text.split("answer is")
            numbers = re.findall(r"\\d+", parts[-1])
            if not numbers:
                return None
            return int(numbers[0] if len(parts) > 1 else numbers[-1])
    """),
    verify=_verify_read,
    hints=(
        "text.split('answer is') gives the parts of the text. Which one holds the answer, and where in it?",
        "Of the last part the first number if there is more than one part, else the last number; None without any.",
    ),
    wrong={
        code("""
            import re

            def answer_of(text):
                return int(re.findall(r"\\d+", text)[0])
        """): "the first number of the text",
        code("""
            import re

            def answer_of(text):
                numbers = re.findall(r"\\d+", text)
                return int(numbers[-1]) if numbers else None
        """): "the last number; the answer is",
        code("""
            import re

            def answer_of(text):
                numbers = re.findall(r"answer is (\\d+)", text)
                return int(numbers[0]) if numbers else None
        """): "corrects itself",
        code("""
            import re

            def answer_of(text):
                numbers = re.findall(r"answer is (\\d+)", text)
                return int(numbers[-1]) if numbers else None
        """): "without these words",
        code("""
            import re

            def answer_of(text):
                return re.findall(r"\\d+", text.split("answer is")[-1])[0]
        """): "make a number of it",
    },
    praise="Where the answer is read from is part of every published accuracy.",
)


# --- 04.3 ------------------------------------------------------------------------------------------------------------


def _verify_vote(answer):
    ours = answered(answer([26, 18, 18, 7]))
    if ours == 26:
        raise NotYet("you take the largest or the first answer; the most frequent one of 26, 18, 18, 7 is 18")
    if ours == 2:
        raise NotYet("that is the number of votes; give back the answer that has them")
    if isinstance(ours, tuple | list):
        raise NotYet(f"{ours!r} comes back; give back the answer alone")
    if isinstance(ours, str) or ours != 18:
        raise NotYet(f"the most frequent of 26, 18, 18, 7 is 18; you give {ours!r}")
    if answer([None, 5, None, None, 5]) != 5:
        raise NotYet("of None, 5, None, None, 5 the answer is 5: a chain that ends in no answer (None) has no vote")
    if answer([9, 4, 4, 9]) != 9:
        raise NotYet(
            "9, 4, 4, 9 is a tie; take the one that appeared first, so that the result depends on no accident"
        )
    if answer([None, None]) is not None:
        raise NotYet("where no chain has an answer, there is none: give back None")


VOTE = Exercise(
    id="04.3",
    title="Put it to the vote",
    name="vote",
    difficulty=2,
    minutes=6,
    stub=code("""
        from collections import Counter

        def vote(answers):            # numbers, or None where a chain has no answer
            ...
    """),
    solution=code("""
        from collections import Counter

        def vote(answers):
            counted = Counter(answer for answer in answers if answer is not None).most_common(1)
            return counted[0][0] if counted else None
    """),
    verify=_verify_vote,
    hints=(
        "Counter counts; its most_common(1) gives a list of one pair (answer, votes). Who may vote?",
        "Count the answers that are not None; of most_common(1), where it is not empty, take [0][0].",
    ),
    wrong={
        code("""
            from collections import Counter

            def vote(answers):
                return Counter(answers).most_common(1)[0][0]
        """): "has no vote",
        code("""
            def vote(answers):
                return max(answers)
        """): "the largest or the first",
        code("""
            from collections import Counter

            def vote(answers):
                return Counter(answers).most_common(1)[0][1]
        """): "number of votes",
        code("""
            def vote(answers):
                given = [a for a in answers if a is not None]
                return max(sorted(set(given)), key=given.count, default=None)
        """): "appeared first",
    },
    praise="`majority_vote` does the same and says how many votes there were and whether it was a tie.",
)


# --- 04.4 ------------------------------------------------------------------------------------------------------------


def _verify_moves(answer):
    ours = answered(answer(Fraction(8), Fraction(3)))
    if isinstance(ours, list | tuple):
        ours = set(ours)
    if not isinstance(ours, set | frozenset):
        raise NotYet(f"a {type(ours).__name__} comes back where a set is asked for")
    exact = {Fraction(11), Fraction(24), Fraction(5), Fraction(-5), Fraction(8, 3), Fraction(3, 8)}
    if ours == exact - {Fraction(-5), Fraction(3, 8)}:
        raise NotYet("the order is missing: 3 - 8 and 3 / 8 are results as well")
    if missing := {Fraction(-5), Fraction(3, 8)} & (exact - ours):
        raise NotYet(f"{min(missing)} is missing; - and / give another result in the other order")
    if Fraction(8, 3) not in ours:
        raise NotYet(
            "8 / 3 is missing; leave it as the fraction that it is: // would round it, and a float is not exact"
        )
    if ours != exact:
        wrong = sorted(map(str, ours ^ exact))
        raise NotYet(f"of 8 and 3 there are six results; yours differ in {', '.join(wrong)}")
    with_zero = answered(answer(Fraction(5), Fraction(0)))
    if set(with_zero) != {Fraction(5), Fraction(0), Fraction(-5)}:
        raise NotYet(
            f"5 and 0 give 5, -5 and 0 and no more (nothing is divided by 0); yours are {sorted(map(str, with_zero))}"
        )


MOVES = Exercise(
    id="04.4",
    title="All that two numbers can make",
    name="reachable",
    difficulty=2,
    minutes=6,
    stub=code("""
        def reachable(a, b):          # fractions, such as Fraction(8) and Fraction(3)
            return {a + b, ...}
    """),
    solution=code("""
        def reachable(a, b):
            found = {a + b, a * b, a - b, b - a}
            if b:
                found.add(a / b)
            if a:
                found.add(b / a)
            return found
    """),
    verify=_verify_moves,
    hints=(
        "Four operations. For two of them the order matters, and one of them is not always possible.",
        "{a + b, a * b, a - b, b - a}, and a / b where b is not zero, b / a where a is not zero.",
    ),
    wrong={
        code("""
            def reachable(a, b):
                return {a + b, a * b, a - b} | ({a / b} if b else set())
        """): "the order is missing",
        code("""
            def reachable(a, b):
                return {a + b, a * b, a - b, b - a, a / b, b / a}
        """): "ZeroDivisionError",
        code("""
            def reachable(a, b):
                return {a + b, a * b, abs(a - b)} | ({a / b} if b else set()) | ({b / a} if a else set())
        """): "-5 is missing",
        code("""
            def reachable(a, b):
                return {a + b, a * b, a - b, b - a} | ({a // b} if b else set()) | ({b / a} if a else set())
        """): "// would round it",
    },
    praise="Six results a pair, three rounds of pairs: that is the whole tree.",
)


# --- 04.5 ------------------------------------------------------------------------------------------------------------


def _verify_action(answer):
    ours = answered(answer("Action 2: calculator[3 * 24]"))
    if isinstance(ours, str):
        raise NotYet(f"the text {ours!r} comes back; give back the pair of the tool's name and its input")
    ours = tuple(_listed(ours))
    if len(ours) != 2:
        raise NotYet(f"{ours!r} comes back; give back the pair of the tool's name and its input")
    if ours == ("calculator", "[3 * 24]") or ours == ("calculator", "3 * 24]"):
        raise NotYet("a bracket is left in the input; only what stands between the brackets belongs to it")
    if isinstance(ours[0], str) and ours[0].startswith(("Action", " ")):
        raise NotYet(f"the tool's name comes back as {ours[0]!r}; it is 'calculator'")
    if ours != ("calculator", "3 * 24"):
        raise NotYet(f"'Action 2: calculator[3 * 24]' gives you {ours!r}, not ('calculator', '3 * 24')")
    if tuple(answer("Action 12: handbook[gate word]") or ()) != ("handbook", "gate word"):
        raise NotYet("right for step 2, not for step 12; the number may have any length")
    for line in ("I should add them up.", "Action 3: calculator 3 * 24", "Action 3: look it up!"):
        if answer(line) is not None:
            raise NotYet(f"{line!r} is no action; give back None, so that the loop can say so to the model and go on")


ACTION = Exercise(
    id="04.5",
    title="Read an action",
    name="read_action",
    difficulty=2,
    minutes=7,
    stub=code("""
        import re

        def read_action(line):          # "Action 2: calculator[3 * 24]"
            found = re.match(r"Action", line)
            ...                         # ("calculator", "3 * 24"), or None
    """),
    solution=code("""
        import re

        def read_action(line):
            found = re.match(r"Action \\d+: (\\w+)\\[(.*)\\]$", line)
            return found.groups() if found else None
    """),
    verify=_verify_action,
    hints=(
        "A regular expression with two groups: letters before the bracket, anything inside. What if it does not match?",
        r"re.match(r'Action \d+: (\w+)\[(.*)\]$', line) is None or has .groups().",
    ),
    wrong={
        code("""
            import re

            def read_action(line):
                return re.match(r"Action \\d+: (\\w+)\\[(.*)\\]$", line).groups()
        """): "AttributeError",
        code("""
            import re

            def read_action(line):
                found = re.match(r"Action \\d: (\\w+)\\[(.*)\\]$", line)
                return found.groups() if found else None
        """): "not for step 12",
        code("""
            def read_action(line):
                name, _, rest = line.partition("[")
                return (name, rest.rstrip("]")) if rest else None
        """): "the tool's name comes back as",
        code("""
            import re

            def read_action(line):
                found = re.match(r"Action \\d+: (\\w+)(.*)$", line)
                return found.groups() if found else None
        """): "a bracket is left",
    },
    praise="A loop over tools stands and falls with what it does when this gives None.",
)


EXERCISES = [CHAIN, READ, VOTE, MOVES, ACTION]
