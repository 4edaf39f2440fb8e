"""Figures and their intervals, against scipy and by hand."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from limbeck.stats import (
    NOT_MEASURED,
    Crossed,
    Figure,
    adjusted,
    apart,
    auc,
    calibration_error,
    chance_of,
    difference,
    fewest_positives,
    flips,
    kappa,
    least_p_value,
    mean,
    mean_share,
    more_often,
    paired_difference,
    promised_threshold,
    proportion,
    quantile,
    reliability,
    went_towards,
)


def test_nothing_measured_gives_none_and_not_zero() -> None:
    assert proportion([]) == mean([]) == auc([], [1.0]) == auc([1.0], []) == NOT_MEASURED
    assert difference([], [True]) == difference([True], []) == paired_difference([], []) == NOT_MEASURED


def test_a_proportion_has_the_wilson_interval() -> None:
    # 7 of 10, z = 1.96: centre (0.7 + 1.9207/10) / 1.38414 = 0.64451, half width 0.24748.
    assert proportion([True] * 7 + [False] * 3) == pytest.approx((0.7, 0.39677, 0.89221), abs=1e-4)


def test_a_proportion_of_none_or_all_still_has_a_width() -> None:
    none, every = proportion([False] * 20), proportion([True] * 20)
    # z² / (n + z²) = 3.8415 / 23.8415
    assert none == pytest.approx((0.0, 0.0, 0.16113), abs=1e-4)
    assert every == pytest.approx((1.0, 0.83887, 1.0), abs=1e-4)


def test_the_wilson_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(0)
    for truth in (0.1, 0.5, 0.9):
        drawn = noise.binomial(60, truth, size=400)
        found = {count: proportion([True] * count + [False] * (60 - count)) for count in set(drawn.tolist())}
        covered = np.mean([found[count].low <= truth <= found[count].high for count in drawn.tolist()])  # type: ignore[operator]
        # 400 draws: the standard error of the coverage is 0.011.
        assert 0.91 <= covered <= 0.99


def test_a_mean_of_equal_values_has_the_interval_of_what_so_few_could_hide() -> None:
    # 10 alike: at most 1 - 0.025 ** (1 / 10) = 0.3085 of all differ, and lie between the bounds.
    share = 1 - 0.025**0.1
    assert mean([1.0] * 10, bounds=(0, 1)) == pytest.approx((1.0, 1 - share, 1.0))
    assert mean([0.5] * 10, bounds=(-1, 1)) == pytest.approx((0.5, 0.5 - share * 1.5, 0.5 + share * 0.5))
    assert mean([0.25], bounds=(0, 1)) == pytest.approx((0.25, 0.25 * 0.025, 0.25 + 0.975 * 0.75))
    # Nats have no bounds.
    assert mean([0.25, 0.25, 0.25]) == (0.25, None, None)


def test_a_paired_difference_without_a_change_is_bounded_by_what_so_few_items_could_hide() -> None:
    # 0 of 10 changed: the exact bound is 1 - 0.025 ** (1 / 10).
    value, low, high = paired_difference([True] * 10, [True] * 10)
    assert (value, high) == (0.0, pytest.approx(1 - 0.025**0.1))
    assert low == -high


def test_the_interval_of_a_mean_is_close_to_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=400)
    value, low, high = mean(values.tolist())
    half = 1.96 * values.std() / math.sqrt(400)
    assert value == pytest.approx(values.mean())
    assert (low, high) == (pytest.approx(values.mean() - half, abs=0.03), pytest.approx(values.mean() + half, abs=0.03))


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(1)
    found = [mean(noise.exponential(size=60).tolist()) for _ in range(120)]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])  # type: ignore[operator]
    # Percentile intervals of skewed values fall a little short of 95 %; the standard error here is 0.02.
    assert 0.86 <= covered <= 1.0


def covered(found: Iterable[Figure], truth: float) -> float:
    """In which share of the simulations the interval holds the truth."""
    return float(np.mean([one.low <= truth <= one.high for one in found]))  # type: ignore[operator]


# Nominal is 0.95; of 120 simulations the standard error is 0.02, and a percentile bootstrap of 50 items falls a little
# short of it.


def test_the_interval_of_an_auc_covers_the_truth_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(4)
    # Normal scores one standard deviation apart: P(X > Y) = Phi(1 / sqrt(2)).
    truth = float(norm.cdf(1 / math.sqrt(2)))
    drawn = (auc(noise.normal(1, 1, 50).tolist(), noise.normal(0, 1, 50).tolist()) for _ in range(120))
    assert 0.90 <= covered(drawn, truth) <= 0.99


def test_the_interval_of_a_kappa_covers_the_truth_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(5)
    found = []
    for _ in range(120):
        truth = noise.random(60) < 0.5
        # Right in 8 of 10, chance is one half: kappa (0.8 - 0.5) / 0.5 = 0.6.
        said = truth ^ (noise.random(60) < 0.2)
        found.append(kappa(said.tolist(), truth.tolist()))
    assert 0.90 <= covered(found, 0.6) <= 0.99


def test_newcombes_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(6)
    draws = [(noise.random(40) < 0.9, noise.random(60) < 0.7) for _ in range(200)]
    found = [difference(first.tolist(), second.tolist()) for first, second in draws]
    assert 0.91 <= covered(found, 0.2) <= 0.99


def test_the_interval_of_a_paired_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(7)
    found = []
    for _ in range(200):
        # Of 60 items a fifth is lost and a tenth won: -0.1.
        kinds = noise.choice(4, size=60, p=[0.2, 0.1, 0.4, 0.3])
        before, after = (kinds == 0) | (kinds == 2), (kinds == 1) | (kinds == 2)
        found.append(paired_difference(before.tolist(), after.tolist()))
    assert 0.90 <= covered(found, -0.1) <= 0.99


@pytest.mark.parametrize("truth", [0.0, 0.2])
def test_the_interval_of_a_calibration_error_covers_the_truth_at_least_as_often_as_it_says(truth: float) -> None:
    noise = np.random.default_rng(8)
    found = []
    for _ in range(120):
        stated = noise.choice([0.25, 0.35, 0.65, 0.75], size=150)
        happened = noise.random(150) < stated + np.where(stated < 0.5, truth, -truth)
        found.append(calibration_error(stated.tolist(), happened.tolist()))
    assert covered(found, truth) >= 0.91


@pytest.mark.parametrize("items", [5, 20])
def test_the_interval_of_a_perfect_figure_covers_a_truth_that_is_not(items: int) -> None:
    # At the truth that is met without a slip once in 20, the interval of a run without one still holds it.
    truth = 0.05 ** (1 / items)
    share, ranked = mean([1.0] * items, bounds=(0, 1)), auc([1.0] * items, [0.0] * items)
    assert share.low == ranked.low and share.low is not None and share.low < truth


def test_a_difference_has_newcombes_interval() -> None:
    # Newcombe 1998, table II (a), method 10: 56/70 - 48/80 = 0.2, from 0.0524 to 0.3339.
    first, second = [True] * 56 + [False] * 14, [True] * 48 + [False] * 32
    assert difference(first, second) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_a_difference_turned_round_changes_its_sign() -> None:
    first, second = [True] * 9 + [False], [True] * 2 + [False] * 5
    one, other = difference(first, second), difference(second, first)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))  # type: ignore[operator]


def test_the_auc_counts_pairs_in_order_and_ties_half() -> None:
    assert auc([3.0, 2.0], [1.0, 0.0]).value == 1.0
    assert auc([1.0], [1.0]).value == 0.5
    # 0.9 beats both, 0.4 ties with one and loses to none below: (2 + 1.5) / 4.
    assert auc([0.9, 0.4], [0.4, 0.1]).value == pytest.approx(0.875)


def test_an_auc_without_a_slip_is_bounded_by_the_pairs_of_the_smaller_class() -> None:
    # 20 pairs share no item: P(no slip) = 0.025 at AUC 0.025 ** (1 / 20) = 0.832.
    figure = auc([2.0] * 20, [1.0] * 50)
    assert figure == pytest.approx((1.0, 0.025**0.05, 1.0))
    assert auc([1.0] * 50, [2.0] * 20) == pytest.approx((0.0, 0.0, 1 - 0.025**0.05))
    # All tied: half of the share that could differ, each way.
    assert auc([1.0] * 20, [1.0] * 20) == pytest.approx((0.5, 0.5 * 0.025**0.05, 1 - 0.5 * 0.025**0.05))


def test_the_interval_of_an_auc_of_pure_noise_holds_one_half() -> None:
    noise = np.random.default_rng(3)
    figure = auc(noise.normal(size=60).tolist(), noise.normal(size=60).tolist())
    assert figure.low is not None and figure.high is not None
    assert figure.low < 0.5 < figure.high and 0.1 < figure.high - figure.low < 0.35


def test_flips_count_both_ways_and_have_the_exact_p_value() -> None:
    before = [True] * 8 + [False] * 5 + [True] * 4
    after = [True] * 8 + [True] * 5 + [False] * 4
    found = flips(before, after)
    assert (found.better, found.worse) == (5, 4)
    assert found.p_value == pytest.approx(binomtest(5, 9).pvalue) == pytest.approx(1.0)
    # Six of six one way: 2 / 2^6.
    assert flips([False] * 6, [True] * 6).p_value == pytest.approx(0.03125)


def test_nothing_flipped_has_no_p_value() -> None:
    assert flips([True, False], [True, False]) == (0, 0, None)


@pytest.mark.parametrize("pairs", [1, 5, 6, 20])
def test_no_flips_of_so_many_pairs_have_a_smaller_p_value_than_all_of_them(pairs: int) -> None:
    assert least_p_value(pairs) == pytest.approx(flips([True] * pairs, [False] * pairs).p_value)
    assert least_p_value(0) == 1.0


def test_p_values_are_adjusted_after_benjamini_and_hochberg() -> None:
    # In order: 0.01 * 4 / 1 = 0.04, 0.03 * 4 / 2 = 0.06, 0.04 * 4 / 3 = 0.0533, 1; none above the next.
    assert adjusted([0.01, 0.04, 0.03, 1.0]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 1.0])
    assert adjusted([]) == []


def test_a_paired_difference_is_after_less_before_over_the_same_items() -> None:
    figure = paired_difference([True, True, True, False], [True, False, False, True])
    assert figure.value == -0.25
    assert figure.low is not None and figure.high is not None and figure.low < -0.25 < figure.high


def test_pairs_of_unequal_length_are_a_bug() -> None:
    with pytest.raises(ValueError):
        paired_difference([True], [True, False])


def test_a_mean_of_shares_that_are_all_or_nothing_has_the_interval_of_a_share() -> None:
    assert mean_share([1.0, 1.0, 0.0]) == proportion([True, True, False])
    assert mean_share([1.0, 0.5, 0.0]) == mean([1.0, 0.5, 0.0])
    assert mean_share([]) == NOT_MEASURED


def test_calibration_error_of_honest_and_of_boastful_figures() -> None:
    # Ten times "90 %": right nine times the gap is 0; right five times it is 0.4.
    assert calibration_error([0.9] * 10, [True] * 9 + [False]).value == pytest.approx(0)
    assert calibration_error([0.9] * 10, [True] * 5 + [False] * 5).value == pytest.approx(0.4)
    assert calibration_error([], []) == NOT_MEASURED


def test_the_interval_of_a_calibration_error_is_no_point_where_the_figure_is_perfect() -> None:
    # Half of those at one half happened, but of 20 that could be chance.
    value, low, high = calibration_error([0.5] * 20, [True, False] * 10)
    assert (value, low) == (0.0, 0.0) and high is not None and 0.1 < high < 0.4
    # All alike: nothing to resample, and at most 1 - 0.025 ** (1 / 20) of all differ.
    assert calibration_error([1.0] * 20, [True] * 20) == pytest.approx((0.0, 0.0, 1 - 0.025**0.05))


def test_only_bins_with_items_are_shown() -> None:
    first, last = reliability([0.05, 0.07, 1.0], [False, True, True])
    assert (first.stated, first.happened.value, first.items) == (pytest.approx(0.06), 0.5, 2)
    assert (last.stated, last.happened.value, last.items) == (1.0, 1.0, 1)


def test_kappa_is_agreement_beyond_chance() -> None:
    # Agree in 3 of 4; by chance 1/2 x 1/4 + 1/2 x 3/4 = 1/2.
    assert kappa([True, True, False, False], [True, False, False, False]).value == pytest.approx(0.5)
    assert kappa([True, False] * 5, [True, False] * 5).value == 1.0
    assert kappa([True] * 5, [True] * 5) == kappa([], []) == NOT_MEASURED


def test_a_kappa_without_a_slip_is_bounded_by_what_so_few_items_could_hide() -> None:
    # 20 alike, half yes: at most the share q = 0.168 of all differ. Were they (yes, no), agreement is 1 - q, and with
    # the shares (1 + q) / 2 and (1 - q) / 2 of yes it is (1 - q ** 2) / 2 by chance.
    q = 1 - 0.025**0.05
    by_chance = (1 - q**2) / 2
    value, low, high = kappa([True, False] * 10, [True, False] * 10)
    assert (value, low, high) == (1.0, pytest.approx((1 - q - by_chance) / (1 - by_chance)), 1.0)
    # One who always says yes agrees by chance alone, and in every draw.
    value, low, high = kappa([True] * 20, [True, False] * 10)
    assert value == pytest.approx(0) and low is not None and high is not None and low < -0.1 and high > 0.1


def test_a_promised_threshold_holds_as_often_as_it_says() -> None:
    # True scores are uniform, so a threshold t catches the share 1 - t: promised .9, it may exceed .1 in 5 % of draws.
    generator = np.random.default_rng(0)
    drawn = [promised_threshold(generator.uniform(size=100).tolist(), catch=0.9, confidence=0.95) for _ in range(400)]
    broken = sum(one is not None and one > 0.1 for one in drawn)
    assert broken / len(drawn) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / len(drawn))
    assert sum(one is not None and one >= 0.03 for one in drawn) > len(drawn) / 2


def test_nothing_is_promised_on_too_few() -> None:
    assert promised_threshold([0.9] * 28, catch=0.9, confidence=0.95) is None
    assert promised_threshold([0.9] * 29, catch=0.9, confidence=0.95) == 0.9
    assert promised_threshold([], catch=0.9, confidence=0.95) is None
    for catch, confidence in ((0.9, 0.95), (0.8, 0.9), (0.99, 0.95), (0.5, 0.75)):
        fewest = fewest_positives(catch=catch, confidence=confidence)
        assert promised_threshold([0.9] * fewest, catch=catch, confidence=confidence) == 0.9
        assert promised_threshold([0.9] * (fewest - 1), catch=catch, confidence=confidence) is None


def test_a_promise_allows_as_many_misses_as_the_exact_binomial_test() -> None:
    # Of 100 with a tenth missed: P(<= 4) = 0.024, P(<= 5) = 0.058.
    for missed, threshold in ((4, 0.8), (5, 0.1)):
        scores = [0.1] * missed + [0.8] * (100 - missed)
        assert promised_threshold(scores, catch=0.9, confidence=0.95) == threshold


@pytest.mark.parametrize(("score", "items"), [(0.9, 28), (1.0, 40), (0.0, 40), (0.5, 0)])
def test_a_promise_or_none_is_all_that_is_said(score: float, items: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        promised = promised_threshold([score] * items, catch=0.9, confidence=0.95)
    assert promised == (score if items == 40 else None)


def test_a_quantile_is_one_of_the_values_between_two_others() -> None:
    # Of ten, the second and the ninth hold the median: P(Bin(10, 1/2) <= 1) = 0.011, P(<= 2) = 0.055.
    assert quantile([float(n) for n in range(1, 11)], 0.5) == (5.0, 2.0, 9.0)
    assert quantile([3.0], 0.25) == (3.0, None, None)
    assert quantile([], 0.5) == NOT_MEASURED


def test_the_divergence_of_equal_distributions_is_0_and_of_disjoint_ones_1_bit() -> None:
    assert apart((0.25, 0.75), (0.25, 0.75)) == 0.0
    assert apart((1.0, 0.0), (0.0, 1.0)) == pytest.approx(1.0)
    # H(3/4, 1/4) - (0 + 1) / 2.
    assert apart((1.0, 0.0), (0.5, 0.5)) == pytest.approx(0.3113, abs=1e-4)


def test_a_distribution_goes_towards_another_where_it_ends_nearer_to_it() -> None:
    before, goal = (0.5, 0.5), (0.9, 0.1)
    assert went_towards(before, (0.7, 0.3), goal) is True
    assert went_towards(before, (0.3, 0.7), goal) is False
    assert went_towards(before, before, goal) is None and went_towards(goal, before, goal) is None


def test_losses_are_counted_on_both_sides_and_compared_by_fishers_exact_test() -> None:
    kinds = Counter({(False, True, False): 3, (False, True, True): 1, (True, True, False): 1, (True, True, True): 3,
                     (True, False, True): 9})  # fmt: skip
    crossed = Crossed(kinds)
    assert (sum(crossed.lost(teacher=False)), sum(crossed.lost(teacher=True))) == (3, 1)
    # Fisher's tea: 34 of 70.
    assert crossed.p_value == pytest.approx(34 / 70)
    assert Crossed(Counter({(True, True, False): 3})).p_value is None


def test_a_phrase_is_said_more_often_by_its_log_odds_and_a_rare_one_proves_little() -> None:
    # Prior 10 * 40 / 200 = 2 of 10: log(32 / 78) - log(12 / 98) over sqrt(1/32 + 1/78 + 1/12 + 1/98).
    z = (math.log(32 / 78) - math.log(12 / 98)) / math.sqrt(1 / 32 + 1 / 78 + 1 / 12 + 1 / 98)
    assert more_often(30, 100, before=10, of_before=100) == pytest.approx(z)
    assert 0 < more_often(3, 100, before=1, of_before=100) < 1.96 < z
    assert more_often(5, 10, before=5, of_before=10) == pytest.approx(0.0)
    assert more_often(9, 9, before=9, of_before=9) == more_often(0, 9, before=0, of_before=9) == 0.0
    assert chance_of(1.959964) == pytest.approx(0.025)
