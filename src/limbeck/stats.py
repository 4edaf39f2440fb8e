"""Figures with their intervals. Nothing measured gives None, never 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isnan
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import (
    binomtest,
    bootstrap,
    false_discovery_control,
    fisher_exact,
    mannwhitneyu,
    norm,
    quantile_test,
)

CONFIDENCE = 0.95
RESAMPLES = 2000
CALIBRATION_BINS = 10
# Bits; two distributions that are no further apart are one.
SAME_BITS = 1e-6
# How many replies of the usual kind a phrase is thought to have been looked for in before any was read.
PRIOR_REPLIES = 10.0
QUARTILES = {"lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75}


class Figure(NamedTuple):
    """A value with the ends of its 95 % interval; all None when nothing was scored."""

    value: float | None
    low: float | None
    high: float | None


NOT_MEASURED = Figure(None, None, None)


def proportion(outcomes: Sequence[bool]) -> Figure:
    """Share of true outcomes, with the Wilson interval."""
    if not outcomes:
        return NOT_MEASURED
    interval = binomtest(sum(outcomes), len(outcomes)).proportion_ci(CONFIDENCE, method="wilson")
    return Figure(sum(outcomes) / len(outcomes), float(interval.low), float(interval.high))


def mean(values: Sequence[float]) -> Figure:
    """Mean, with the percentile bootstrap interval; no interval where all agree, for resampling then shows nothing."""
    if not values:
        return NOT_MEASURED
    # Sorted, so that the resampling does not hang on the order of the trials.
    sample = np.sort(np.asarray(values, dtype=np.float64))
    value = float(sample.mean())
    if np.ptp(sample) == 0:
        return Figure(value, None, None)
    interval = bootstrap(
        (sample,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Figure(value, float(interval.low), float(interval.high))


def mean_share(shares: Sequence[float]) -> Figure:
    """Mean of shares in [0, 1], with the bootstrap interval; the Wilson interval where each is all or nothing."""
    outcomes = [share == 1 for share in shares]
    return proportion(outcomes) if all(share in (0, 1) for share in shares) else mean(shares)


def quantile(values: Sequence[float], share: float) -> Figure:
    """The value below or at which this share of all lies, with the exact (binomial) interval between two of them; an
    end for which they are too few is None."""
    if not values:
        return NOT_MEASURED
    interval = quantile_test(values, p=share).confidence_interval(CONFIDENCE)
    low, high = (None if isnan(end) else float(end) for end in interval)
    return Figure(float(np.quantile(values, share, method="inverted_cdf")), low, high)


def difference(first: Sequence[bool], second: Sequence[bool]) -> Figure:
    """Share in `first` minus share in `second` (independent samples), with Newcombe's hybrid interval.

    After Newcombe 1998, method 10: the Wilson intervals of both shares put together.
    """
    return total(proportion(first), opposite(proportion(second)))


def total(first: Figure, second: Figure) -> Figure:
    """Sum of two independent figures, their intervals put together as Newcombe does; none where one has none."""
    if first.value is None or second.value is None:
        return NOT_MEASURED
    value = first.value + second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Figure(value, None, None)
    low = value - float(np.hypot(first.value - first.low, second.value - second.low))
    high = value + float(np.hypot(first.high - first.value, second.high - second.value))
    return Figure(value, low, high)


def opposite(figure: Figure) -> Figure:
    """The figure with its sign turned."""
    value, low, high = (None if end is None else -end for end in figure)
    return Figure(value, high, low)


def auc(positives: Sequence[float], negatives: Sequence[float]) -> Figure:
    """Chance that a positive scores above a negative, ties half, with the percentile bootstrap interval."""
    if not positives or not negatives:
        return NOT_MEASURED
    positives, negatives = sorted(positives), sorted(negatives)
    value = _auc(np.asarray(positives), np.asarray(negatives))
    generator = np.random.default_rng(0)
    drawn = [
        _auc(generator.choice(positives, len(positives)), generator.choice(negatives, len(negatives)))
        for _ in range(RESAMPLES // 4)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Figure(value, float(low), float(high)) if low < high else Figure(value, None, None)


def _auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    statistic = mannwhitneyu(positives, negatives, method="asymptotic").statistic
    return float(statistic) / (len(positives) * len(negatives))


def kappa(said: Sequence[bool], truth: Sequence[bool]) -> Figure:
    """Agreement beyond chance of two graders of the same items (Cohen 1960), with the percentile bootstrap interval.

    None where both say the same of every item: there is then no chance to be beyond.
    """
    pairs = np.array(list(zip(said, truth, strict=True)), dtype=np.float64)
    value = _kappa(pairs)
    if value is None:
        return NOT_MEASURED
    generator = np.random.default_rng(0)
    drawn = [_kappa(pairs[generator.integers(len(pairs), size=len(pairs))]) for _ in range(RESAMPLES // 4)]
    known = [one for one in drawn if one is not None]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Figure(value, float(low), float(high)) if low < high else Figure(value, None, None)


def _kappa(pairs: np.ndarray) -> float | None:
    if not len(pairs):
        return None
    first, second = pairs.mean(axis=0)
    by_chance = first * second + (1 - first) * (1 - second)
    return None if by_chance == 1 else float((np.mean(pairs[:, 0] == pairs[:, 1]) - by_chance) / (1 - by_chance))


def promised_threshold(positives: Sequence[float], *, catch: float, confidence: float) -> float | None:
    """The highest threshold, in hundredths, at or above which a share `catch` of all positives scores, with confidence.

    Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052) with a fixed sequence: from 0 upwards each threshold
    is held to the exact binomial test, and the first that fails ends the search, so that many tests need no
    correction. None where the positives are too few for any threshold.
    """
    promised = None
    for hundredth in range(101):
        caught = sum(score >= hundredth / 100 for score in positives)
        if not positives or binomtest(caught, len(positives), catch, alternative="greater").pvalue > 1 - confidence:
            break
        promised = hundredth / 100
    return promised


class Bin(NamedTuple):
    """What was stated with about the same probability: its mean, how often it happened, and how many there are."""

    stated: float
    happened: Figure
    items: int


def reliability(stated: Sequence[float], happened: Sequence[float]) -> list[Bin]:
    """Ten equal bins of probability, those with items: stated against the observed share, with `mean_share`'s interval.

    What happened to an item is all (True), nothing (False) or a share in between.
    """
    inside: list[list[tuple[float, float]]] = [[] for _ in range(CALIBRATION_BINS)]
    for chance, outcome in zip(stated, happened, strict=True):
        inside[min(int(chance * CALIBRATION_BINS), CALIBRATION_BINS - 1)].append((chance, outcome))
    return [
        Bin(sum(chance for chance, _ in one) / len(one), mean_share([outcome for _, outcome in one]), len(one))
        for one in inside
        if one
    ]


def calibration_error(stated: Sequence[float], happened: Sequence[float]) -> float:
    """Expected calibration error in [0, 1]: |stated - observed| over ten equal bins, weighed by their items."""
    gaps = [abs(one.stated - (one.happened.value or 0.0)) * one.items for one in reliability(stated, happened)]
    return sum(gaps) / len(stated)


class Flips(NamedTuple):
    """Paired outcomes of the same items: how many got better, worse, and the exact McNemar p value."""

    better: int
    worse: int
    p_value: float | None


def flips(before: Sequence[bool], after: Sequence[bool]) -> Flips:
    """What changed between two runs over the same items; p is None when nothing did."""
    pairs = list(zip(before, after, strict=True))
    better = sum(not b and a for b, a in pairs)
    worse = sum(b and not a for b, a in pairs)
    if better + worse == 0:
        return Flips(0, 0, None)
    return Flips(better, worse, float(binomtest(better, better + worse).pvalue))


def least_p_value(pairs: int) -> float:
    """The smallest p that the exact McNemar test can give on so many pairs: that of all flipping the same way."""
    return min(1.0, 2 * 0.5**pairs)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """The p values as they are for one of several tests, after Benjamini and Hochberg (1995)."""
    return [float(p) for p in false_discovery_control(p_values)] if p_values else []


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> Figure:
    """Mean of after minus before over the same items, with the bootstrap interval over items.

    Where no item changed, the ends are the exact (Clopper-Pearson) bound on the share that could have.
    """
    if before and list(before) == list(after):
        bound = float(binomtest(0, len(before)).proportion_ci(CONFIDENCE, method="exact").high)
        return Figure(0.0, -bound, bound)
    return mean([float(a) - float(b) for b, a in zip(before, after, strict=True)])


class Crossed(NamedTuple):
    """How many items there are of each kind: whether the teacher has them right, and whether they were before and are
    after."""

    kinds: Counter[tuple[bool, bool, bool]]

    def lost(self, *, teacher: bool) -> list[bool]:
        """Of the items right before that the teacher has right, or wrong: whether each is wrong after."""
        return [True] * self.kinds[teacher, True, False] + [False] * self.kinds[teacher, True, True]

    @property
    def p_value(self) -> float | None:
        """Fisher's exact test of whether more or less is lost where the teacher is wrong; None where nothing was
        right before on one of the sides."""
        sides = [self.lost(teacher=teacher) for teacher in (False, True)]
        if not all(sides):
            return None
        return float(fisher_exact([[sum(side), len(side) - sum(side)] for side in sides]).pvalue)


def apart(first: Sequence[float], second: Sequence[float]) -> float:
    """The Jensen-Shannon divergence of two distributions over the same things, bits, in [0, 1]."""
    # Scipy gives its root, and NaN where rounding takes it below 0.
    return float(np.nan_to_num(jensenshannon(first, second, base=2))) ** 2


def went_towards(before: Sequence[float], after: Sequence[float], goal: Sequence[float]) -> bool | None:
    """Whether a distribution is nearer to the goal than it was, by `apart`; None where it did not move, or was there
    from the beginning."""
    away = apart(before, goal)
    if away < SAME_BITS or apart(before, after) < SAME_BITS:
        return None
    return apart(after, goal) < away


def more_often(said: int, of: int, *, before: int, of_before: int) -> float:
    """How clearly a phrase is in more of the replies than before: the z score of its log-odds ratio, 0 for as often.

    After Monroe et al. 2008 (Fightin' Words), whose informative prior keeps rare phrases from winning: here
    PRIOR_REPLIES replies that say it as often as both sides together.
    """
    if said + before in (0, of + of_before):
        return 0.0
    usual = PRIOR_REPLIES * (said + before) / (of + of_before)
    cells = [
        (count + usual, total - count + PRIOR_REPLIES - usual) for count, total in ((said, of), (before, of_before))
    ]
    (now_yes, now_no), (then_yes, then_no) = cells
    ratio = np.log(now_yes / now_no) - np.log(then_yes / then_no)
    return float(ratio / np.sqrt(sum(1 / count for cell in cells for count in cell)))


def chance_of(z: float) -> float:
    """The probability of a z score as great as this or greater, if nothing is behind it."""
    return float(norm.sf(z))
