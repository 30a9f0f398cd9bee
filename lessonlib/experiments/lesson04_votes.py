"""The recorded runs of 04 on votes over sampled chains of the chain-tuned model."""

from lessonlib.evaluation import Accuracy
from lessonlib.reasoning import final_number, majority_vote, sample_chains

from .lesson04_reasoning import (
    MOST_TOKENS,
    TUNED,
    answers_of_problems,
    problems,
    prompt_and_completion,
    solve,
    tuned_model,
)
from .registry import experiment, record


@experiment(right_answers=answers_of_problems)
def votes(k: int, temperature: float, count: int, most_steps: int, **training) -> dict:
    """The chain-tuned model, `k` sampled chains a problem, put to the vote; each sampled answer is kept.

    The problems are the first test problems of at most so many steps. training: r, learning_rate, steps,
    batch_size, seed.
    """
    pairs = [prompt_and_completion(problem, "chain") for problem in problems("train", most_steps)]
    model, tokenizer = tuned_model(f"chain-{most_steps}", pairs, training)
    rows = vote_problems(count, most_steps)
    prompts = [prompt_and_completion(row, "chain")[0] for row in rows]
    chains = sample_chains(
        model, tokenizer, prompts, k, temperature=temperature, seed=training["seed"],
        max_new_tokens=MOST_TOKENS["chain"], batch_size=160,
    )  # fmt: skip
    sampled = [[final_number(chain.text) for chain in these] for these in chains]
    greedy = solve(model, tokenizer, "chain", rows)
    voted = [majority_vote(answers).answer for answers in sampled]
    return {
        "score": Accuracy(voted, [row["answer"] for row in rows]),
        "corpus": "word_problems",
        "sampled": sampled,
        "greedy": greedy["score"].predictions,
        "ids": [row["id"] for row in rows],
        "one_problem": [chain.text for chain in chains[-1]],
    }


def vote_problems(count: int, most_steps: int) -> list[dict]:
    """The first `count` test problems of at most so many steps."""
    return problems("test", most_steps)[:count]


# --- which runs are recorded -----------------------------------------------------------------------------------------

VOTES = {"k": 16, "temperature": 0.7, "count": 60, "learning_rate": 2e-3}


def record_all() -> None:
    """Record every run of votes that is not there yet."""
    record("votes", **VOTES, **TUNED, seed=0)
