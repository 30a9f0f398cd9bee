"""Claims of lessonlib.serving.traffic. References: hand counts, harmonic numbers, the law of large numbers, sleeping calls."""

import itertools
import threading
import time

import numpy as np
import pytest

from lessonlib.serving.traffic import (
    Answer,
    Load,
    by_adapter,
    hit_rate,
    in_turns,
    lru_hits,
    offer,
    replicas,
    zipf,
    zipf_shares,
)

# --- who is asked for ------------------------------------------------------------------------------------------------


def test_shares_fall_as_one_over_the_rank():
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    np.testing.assert_allclose(zipf_shares(4), [1 / harmonic, 1 / 2 / harmonic, 1 / 3 / harmonic, 1 / 4 / harmonic])
    np.testing.assert_allclose(zipf_shares(4, s=2)[0] / zipf_shares(4, s=2)[3], 16)
    np.testing.assert_allclose(zipf_shares(5, s=0), 0.2)


def test_draws_follow_the_shares():
    drawn = np.bincount(zipf(10, 20_000, seed=3), minlength=10) / 20_000
    np.testing.assert_allclose(drawn, zipf_shares(10), atol=0.015)  # about four standard errors of the largest


def test_the_same_seed_gives_the_same_requests_and_another_others():
    assert zipf(10, 50, seed=1) == zipf(10, 50, seed=1) != zipf(10, 50, seed=2)


@pytest.mark.parametrize(("n", "s"), [(0, 1.0), (5, -1.0)])
def test_impossible_traffic_is_refused_with_its_values(n, s):
    with pytest.raises(ValueError, match=f"{n} adapters, s = {s}"):
        zipf(n, 10, seed=0, s=s)


# --- what a cache hits -----------------------------------------------------------------------------------------------


def test_the_least_recently_used_is_dropped_not_the_first_that_came():
    # a b c: full. a is used again, so d drops b; a is a hit, b is not.
    assert lru_hits("abcadab", k=3) == [False, False, False, True, False, True, False]


def test_a_memory_for_all_misses_each_adapter_once():
    trace = zipf(12, 300, seed=0)
    assert sum(not hit for hit in lru_hits(trace, 12)) == len(set(trace))


def test_a_memory_for_one_hits_only_what_was_asked_just_before():
    trace = zipf(4, 300, seed=0)
    assert lru_hits(trace, 1)[1:] == [a == b for a, b in itertools.pairwise(trace)]


def test_skewed_traffic_hits_more_than_even_traffic():
    even, skewed, steep = (hit_rate(zipf(32, 4000, seed=0, s=s), 8) for s in (0.0, 1.0, 2.0))
    assert even == pytest.approx(8 / 32, abs=0.03)  # any 8 of 32, all alike
    assert even + 0.2 < skewed < steep - 0.2


def test_a_memory_for_none_is_refused():
    with pytest.raises(ValueError, match="a memory for 0 adapters"):
        lru_hits("ab", 0)


# --- a second replica ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [by_adapter, in_turns])
def test_replicas_share_all_requests_among_them(split):
    trace = zipf(9, 200, seed=0)
    parts = split(trace, 3)
    assert sorted(itertools.chain(*parts)) == sorted(trace)
    assert len(parts) == 3


def test_with_affinity_no_adapter_is_asked_for_in_two_places():
    first, second = by_adapter(zipf(9, 200, seed=0), 2)
    assert not set(first) & set(second)
    assert len(first) == pytest.approx(len(second), abs=20)


def test_affinity_makes_of_two_memories_one_of_twice_the_size_and_turns_do_not():
    trace = zipf(32, 3000, seed=0)
    one, twice = hit_rate(trace, 4), hit_rate(trace, 8)
    assert replicas(trace, 4, of=by_adapter).hit_rate == pytest.approx(twice, abs=0.04)
    assert replicas(trace, 4, of=in_turns).hit_rate == pytest.approx(one, abs=0.04)
    assert replicas(trace, 4, n=1).hit_rate == one


# --- load ------------------------------------------------------------------------------------------------------------


def test_answers_keep_the_order_of_the_requests_and_the_name_that_was_asked():
    def call(name, seconds):
        time.sleep(seconds)
        return name.upper()

    load = offer(call, [("a", 0.05), ("b", 0.0), ("c", 0.02)], clients=3)
    assert [(answer.name, answer.result) for answer in load.answers] == [("a", "A"), ("b", "B"), ("c", "C")]
    assert load.answers[0].seconds >= 0.05


def test_so_many_clients_ask_at_once_and_no_more():
    now, most, lock = 0, 0, threading.Lock()

    def call(name):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    offer(call, [("a",)] * 24, clients=4)
    assert most == 4


def test_an_error_is_kept_with_its_request_and_the_others_are_answered():
    def call(name):
        if name == "gone":
            raise RuntimeError("no such adapter")
        return name

    load = offer(call, [("a",), ("gone",), ("b",)], clients=2)
    assert [(answer.name, str(answer.error)) for answer in load.failures] == [("gone", "no such adapter")]
    assert [answer.result for answer in load.answers] == ["a", None, "b"]


def test_percentiles_leave_failures_out():
    answers = [Answer("a", 0.0, seconds) for seconds in range(1, 101)]
    answers.append(Answer("a", 0.0, 1000.0, error=RuntimeError()))
    load = Load(answers, seconds=200.0)
    assert (load.p50, load.p95) == (50.5, pytest.approx(95.05))


def test_tokens_a_second_count_what_the_answers_say():
    class Said(str):
        tokens = 6

    load = Load([Answer("a", 0, 1, Said()), Answer("a", 0, 1, Said()), Answer("a", 0, 1, error=OSError())], 4.0)
    assert load.tokens_per_second == 3.0


def test_without_an_answer_there_is_no_latency():
    load = offer(lambda name: 1 / 0, [("a",)], clients=1)
    assert len(load.failures) == 1 and np.isnan(load.p50) and "1 failed" in repr(load)


def test_no_clients_are_refused():
    with pytest.raises(ValueError, match="0 clients"):
        offer(print, [("a",)], clients=0)
