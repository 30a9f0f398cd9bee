"""Claims of lessonlib.serving.monitoring. References: scipy, counted false alarms."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import fisher_exact
from tiny_models import random_adapter, served

from lessonlib.corpora import tickets
from lessonlib.lora import LoRAError
from lessonlib.serving.bank import LoRABank
from lessonlib.serving.monitoring import (
    InputDrift,
    MonitorError,
    NothingToGoBackTo,
    PredictionDrift,
    Versions,
    Watch,
    jensen_shannon,
    text_statistics,
)

SHARES = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.02])  # of eight labels
SHIFTED = SHARES[::-1]


def stability_index(counts, reference):
    """The population stability index, Σ (p - q) ln(p / q), with half a count more in each class: another distance."""
    p, q = ((c + 0.5) / (c + 0.5).sum(-1, keepdims=True) for c in (counts, reference))
    return ((p - q) * np.log(p / q)).sum(-1)


def labels(random, n, shares=SHARES):
    return random.choice(len(shares), size=n, p=shares)


def inputs(random, n, shift=0.0):
    """Features that are skewed, correlated and of unequal sizes, as those of texts are."""
    one = random.exponential(size=(n, 1))
    return np.concatenate([one, one + random.exponential(size=(n, 3)), 100 * random.random((n, 1))], 1) + shift


# --- distances ----------------------------------------------------------------------------------------------


def test_jensen_shannon_is_scipys_squared():
    tables = np.array([[3, 0, 7, 1], [0, 0, 5, 5], [10, 1, 1, 1]])
    reference = np.array([40, 0, 20, 40])
    expected = [jensenshannon(table, reference, base=2) ** 2 for table in tables]
    np.testing.assert_allclose(jensen_shannon(tables, reference), expected, atol=1e-12)


def test_an_empty_class_makes_nothing_infinite():
    assert jensen_shannon([0, 9], [5, 0]) == 1


# --- one window ---------------------------------------------------------------------------------------------


def test_p_is_the_share_of_permutations_with_the_window_as_it_came_among_them():
    # Twenty equal labels of two come up once in 2^19 permutations: none of 399 is as far, and the window is one of 400.
    watch = PredictionDrift([0, 1] * 100, labels=2, permutations=399)
    assert watch([0] * 20).p == 1 / 400
    assert watch([0, 1] * 10).p == 1  # every deal is at least as far as no distance at all


# --- false alarms and alarms --------------------------------------------------------------------------------


def prediction_alarms(trials, window, level, *, shares=SHARES, **settings):
    """In how many of so many trials, each with a validation set of its own, the alarm fires."""
    random = np.random.default_rng(7)
    return sum(
        PredictionDrift(labels(random, 400), 8, level=level, permutations=399, seed=trial, **settings)(
            labels(random, window, shares)
        ).drifted
        for trial in range(trials)
    )


def input_alarms(trials, window, level, *, shift=0.0):
    random = np.random.default_rng(8)
    return sum(
        InputDrift(inputs(random, 150), level=level, permutations=199, seed=trial)(
            inputs(random, window, shift)
        ).drifted
        for trial in range(trials)
    )


# 400 trials at a level of 0.05: 20 are expected, and 7 to 33 are within three standard deviations.
@pytest.mark.parametrize("distance", [jensen_shannon, stability_index])
@pytest.mark.parametrize("window", [20, 100])
def test_fair_windows_of_predictions_alarm_as_often_as_the_level_says(window, distance):
    assert 7 <= prediction_alarms(400, window, 0.05, distance=distance) <= 33


@pytest.mark.parametrize("window", [10, 60])
def test_fair_windows_of_inputs_alarm_as_often_as_the_level_says(window):
    assert 7 <= input_alarms(400, window, 0.05) <= 33


def test_shifted_windows_alarm_nearly_always():
    assert prediction_alarms(100, 50, 0.01, shares=SHIFTED) >= 97
    assert input_alarms(100, 50, 0.01, shift=1.0) >= 97


def test_a_fixed_threshold_cries_wolf_on_small_windows():
    random = np.random.default_rng(9)
    reference = random.multinomial(400, SHARES, 400)
    fair = {n: stability_index(random.multinomial(n, SHARES, 400), reference) for n in (20, 200)}
    assert (fair[20] > 0.25).mean() > 0.3
    assert (fair[200] > 0.25).mean() == 0


def test_how_rare_a_window_is_agrees_with_fishers_exact_test():
    # Three ones beside three zeros: 2 of the 20 ways to deal them out are as far apart.
    exact = fisher_exact([[3, 0], [0, 3]]).pvalue
    assert exact == pytest.approx(2 / 20)
    labels_ = PredictionDrift([0] * 3, 2, level=0.2, permutations=9999)([1] * 3)
    inputs_ = InputDrift([[0.0]] * 3, level=0.2, permutations=9999)([[1.0]] * 3)
    assert [labels_.p, inputs_.p] == pytest.approx([exact, exact], abs=0.01)
    assert labels_.drifted and inputs_.drifted
    assert inputs_.distance == pytest.approx(2)  # standard: -1 and 1


def test_a_shift_of_one_feature_in_many_is_seen():
    random = np.random.default_rng(3)
    watch, window = InputDrift(random.normal(size=(200, 20))), random.normal(size=(60, 20))
    assert not watch(window).drifted
    window[:, 4] += 2
    assert watch(window).drifted


def test_the_unit_of_a_feature_does_not_matter():
    random = np.random.default_rng(3)
    reference, window, units = inputs(random, 100), inputs(random, 30), np.array([1, 1e-3, 50, 1, 7])
    one, other = InputDrift(reference)(window), InputDrift(units * reference + 3)(units * window + 3)
    assert one.distance == pytest.approx(other.distance) and one.p == other.p


def test_a_verdict_says_drift_where_the_distance_passes_the_threshold():
    random = np.random.default_rng(4)
    watch = PredictionDrift(labels(random, 300), 8, level=0.2)
    verdicts = [watch(labels(random, 40)) for _ in range(60)]
    assert {v.drifted for v in verdicts} == {True, False}
    assert all(v.drifted == (v.distance > v.threshold) == (v.p <= 0.2) for v in verdicts)
    assert all(repr(v).startswith("DRIFT" if v.drifted else "no drift") for v in verdicts)


def test_the_same_seed_gives_the_same_verdict():
    random = np.random.default_rng(5)
    reference, window = labels(random, 300), labels(random, 40)
    assert PredictionDrift(reference, 8, seed=3)(window) == PredictionDrift(reference, 8, seed=3)(window)


# --- texts --------------------------------------------------------------------------------------------------


def test_text_statistics_by_hand():
    words, letters, capitals, digits, signs = text_statistics(["ABC 12!?"])[0]
    assert np.exp([words, letters]) == pytest.approx([3, 3.5])
    assert [capitals, digits, signs] == [3 / 8, 2 / 8, 2 / 8]
    assert text_statistics(["", "x"]).shape == (2, 5)


def test_other_tickets_are_no_drift_and_shouted_or_joined_ones_are():
    watch = InputDrift(text_statistics(tickets("validation")["text"]))
    others = tickets("test")["text"][:60]
    assert not watch(text_statistics(others)).drifted
    assert watch(text_statistics([text.upper() for text in others])).drifted
    joined = [a + " " + b for a, b in zip(others[::2], others[1::2], strict=True)]
    assert watch(text_statistics(joined)).drifted


# --- a stream -----------------------------------------------------------------------------------------------


def test_a_stream_is_tested_window_by_window_and_alarms_after_the_shift():
    random = np.random.default_rng(11)
    watch = Watch(PredictionDrift(labels(random, 400), 8, level=0.01), window=50)
    stream = [*labels(random, 500), *labels(random, 150, SHIFTED)]
    said = [watch.see(label) for label in stream]
    assert [i for i, verdict in enumerate(said) if verdict] == list(range(49, 650, 50))
    assert watch.alarms == [10, 11, 12]
    assert watch.seen == 650 and not watch.waiting


def test_a_stream_of_features_is_watched_too():
    random = np.random.default_rng(12)
    watch = Watch(InputDrift(inputs(random, 200)), window=40)
    for features in [*inputs(random, 200), *inputs(random, 40, shift=2.0)]:
        watch.see(features)
    assert watch.alarms == [5]


def test_fair_streams_alarm_in_no_more_windows_than_the_level_says():
    random, windows, alarms = np.random.default_rng(13), 0, 0
    for seed in range(40):  # 40 streams of 10 windows, at a level of 0.02: 8 alarms are expected
        watch = Watch(PredictionDrift(labels(random, 500), 8, level=0.02, permutations=199, seed=seed), window=25)
        for label in labels(random, 250):
            watch.see(label)
        windows, alarms = windows + len(watch.verdicts), alarms + len(watch.alarms)
    assert windows == 400
    assert 1 <= alarms <= 18


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: PredictionDrift([0, 3], labels=3),
            "3 is no label's number: expected whole numbers from 0 to 2",
        ),
        (lambda: PredictionDrift([0, 1], labels=2)([]), "no predictions"),
        (lambda: PredictionDrift([0, 1], labels=2)([0, -1]), "-1 is no label's number"),
        (lambda: PredictionDrift([0], labels=2, level=0), "level is 0: expected a chance"),
        (
            lambda: PredictionDrift([0], labels=2, level=0.001, permutations=99),
            "99 permutations cannot tell .* at least 1000",
        ),
        (lambda: InputDrift([1.0, 2.0]), r"features of shape \(2,\)"),
        (lambda: InputDrift([[1.0, np.nan]]), "NaN or infinity"),
        (lambda: InputDrift([[1.0, 2.0]] * 9)([[1.0]]), "1 features a text, the validation set has 2"),
    ],
)
def test_what_cannot_be_watched_is_named(call, message):
    with pytest.raises(MonitorError, match=message):
        call()


# --- and back -----------------------------------------------------------------------------------------------


@pytest.fixture
def bank(make_tiny):
    return LoRABank(make_tiny(), [random_adapter(make_tiny(), seed) for seed in (0, 1)])


def test_one_call_goes_back_bit_for_bit(bank, make_tiny, tiny_tokens):
    versions = Versions(partial(bank.replace, 0), random_adapter(make_tiny(), 2))
    before = served(bank, [0, 1, -1], tiny_tokens)
    versions.deploy(random_adapter(make_tiny(), 3, r=2))
    assert (served(bank, [0, 1, -1], tiny_tokens) - before)[0].abs().max() > 0.05
    versions.rollback()
    assert torch.equal(served(bank, [0, 1, -1], tiny_tokens), before)


def test_what_is_kept_is_a_copy(bank, make_tiny, tiny_tokens):
    first = random_adapter(make_tiny(), 2)
    versions = Versions(partial(bank.replace, 0), first)
    before = served(bank, [0], tiny_tokens)
    versions.deploy(random_adapter(make_tiny(), 3))
    for update in first.values():  # somebody trains on
        update.B.mul_(2)
    versions.rollback()
    assert torch.equal(served(bank, [0], tiny_tokens), before)


def test_a_version_that_is_refused_leaves_the_current_one(bank, make_tiny, tiny_tokens):
    versions = Versions(partial(bank.replace, 0), random_adapter(make_tiny(), 2))
    before = served(bank, [0], tiny_tokens)
    with pytest.raises(LoRAError, match="rank 5"):
        versions.deploy(random_adapter(make_tiny(), 3, r=5))
    assert torch.equal(served(bank, [0], tiny_tokens), before)
    with pytest.raises(NothingToGoBackTo, match="first version"):
        versions.rollback()


def test_it_goes_back_step_by_step_as_far_as_is_kept():
    served_ones = []
    versions = Versions(served_ones.append, 0, keep=2)
    for version in (1, 2, 3):
        versions.deploy(version)
    assert [versions.rollback(), versions.rollback()] == [2, 1]
    assert served_ones == [0, 1, 2, 3, 2, 1] and versions.current == 1
    with pytest.raises(NothingToGoBackTo):
        versions.rollback()
