"""Figures with their intervals. Nothing measured gives None, never 0."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from math import ceil, isnan, log
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import (
    binomtest,
    bootstrap,
    false_discovery_control,
    fisher_exact,
    norm,
    quantile_test,
)

CONFIDENCE = 0.95
RESAMPLES = 2000
TAIL = (1 - CONFIDENCE) / 2
CALIBRATION_BINS = 10
# Bits; two distributions that are no further apart are one.
SAME_BITS = 1e-6
# Draws that are no further apart differ by rounding alone.
SAME_DRAWS = 1e-9
# How many replies of the usual kind a phrase is thought to have been looked for in before any was read.
PRIOR_REPLIES = 10.0
QUARTILES = {"lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75}


class Figure(NamedTuple):
    """A value with the ends of its 95 % interval; all None when nothing was scored, the ends where none can be said."""

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


def mean(values: Sequence[float], *, bounds: tuple[float, float] | None = None) -> Figure:
    """Mean, with the percentile bootstrap interval; where all agree, with what so many alike can hide.

    Resampling equal values shows nothing. The share of all that differs from them is then at most the exact
    (Clopper-Pearson) bound, and what differs lies within the `bounds` of a value. Without bounds it could lie anywhere,
    and no interval holds (Bahadur and Savage 1956).
    """
    if not values:
        return NOT_MEASURED
    # Sorted, so that the resampling does not hang on the order of the trials.
    sample = np.sort(np.asarray(values, dtype=np.float64))
    value = float(sample.mean())
    if np.ptp(sample) == 0:
        return Figure(value, None, None) if bounds is None else _alike(value, len(sample), bounds)
    interval = bootstrap(
        (sample,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Figure(value, float(interval.low), float(interval.high))


def _alike(value: float, items: int, bounds: tuple[float, float]) -> Figure:
    """A mean of so many equal values, whose interval is what the share that could differ would make of it."""
    least, most = bounds
    share = _hidden(items)
    return Figure(value, value - share * (value - least), value + share * (most - value))


def _hidden(items: int) -> float:
    """The largest share of all that may be otherwise where `items` of them are alike: 1 - 0.025 ** (1 / items)."""
    return float(binomtest(0, items).proportion_ci(CONFIDENCE, method="exact").high)


def mean_share(shares: Sequence[float]) -> Figure:
    """Mean of shares in [0, 1], with `mean`'s interval; the Wilson interval where each is all or nothing."""
    outcomes = [share == 1 for share in shares]
    return proportion(outcomes) if all(share in (0, 1) for share in shares) else mean(shares, bounds=(0, 1))


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
    """Chance that a positive scores above a negative, ties half, with the percentile bootstrap interval.

    Where every draw gives the same, as at 1.0, with the exact (Clopper-Pearson) bound: the smaller class makes so many
    pairs of which no two share an item, and all of them are alike.
    """
    if not positives or not negatives:
        return NOT_MEASURED
    above, below = np.sort(np.asarray(positives, float)), np.sort(np.asarray(negatives, float))
    places = np.searchsorted(below, above, "left"), np.searchsorted(below, above, "right")
    value = _auc(places, np.arange(len(above)), np.arange(len(below)))
    generator = np.random.default_rng(0)
    drawn = [
        _auc(places, generator.integers(len(above), size=len(above)), generator.integers(len(below), size=len(below)))
        for _ in range(RESAMPLES // 4)
    ]
    low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
    if high - low < SAME_DRAWS:
        return _alike(value, min(len(above), len(below)), (0, 1))
    return Figure(value, float(low), float(high))


def _auc(places: tuple[np.ndarray, np.ndarray], positives: np.ndarray, negatives: np.ndarray) -> float:
    """The share of pairs in order, ties half, of these positives and as many of the sorted negatives as there are;
    `places` are how many negatives lie below each positive, and how many not above it."""
    drawn = np.concatenate(([0], np.cumsum(np.bincount(negatives, minlength=len(negatives)))))
    return float(sum(drawn[place[positives]].sum() for place in places)) / (2 * len(positives) * len(negatives))


def kappa(said: Sequence[bool], truth: Sequence[bool]) -> Figure:
    """Agreement beyond chance of two graders of the same items (Cohen 1960), with the percentile bootstrap interval.

    Where every draw gives the same, as at 1.0, the ends are the least and the greatest kappa were the share that so
    many items can hide, the exact (Clopper-Pearson) bound, of one of the four kinds of pairs. None where both say the
    same of every item: there is then no chance to be beyond.
    """
    kinds = np.array([2 * bool(a) + bool(b) for a, b in zip(said, truth, strict=True)], dtype=int)
    value = _kappa(np.bincount(kinds, minlength=4))
    if value is None:
        return NOT_MEASURED
    generator, items = np.random.default_rng(0), len(kinds)
    drawn = [
        _kappa(np.bincount(kinds[generator.integers(items, size=items)], minlength=4)) for _ in range(RESAMPLES // 4)
    ]
    low, high = np.quantile([one for one in drawn if one is not None], [TAIL, 1 - TAIL])
    if high - low < SAME_DRAWS:
        share, seen = _hidden(items), np.bincount(kinds, minlength=4) / items
        could = [_kappa((1 - share) * seen + share * kind) for kind in np.eye(4)]
        known = [value, *(one for one in could if one is not None)]
        return Figure(value, min(known), max(known))
    return Figure(value, float(low), float(high))


def _kappa(kinds: np.ndarray) -> float | None:
    """Of how many pairs, or which shares, there are of both no, (no, yes), (yes, no) and both yes."""
    neither, second, first, both = kinds.tolist()
    if neither + second + first + both in (neither, both):
        return None
    items = neither + second + first + both
    by_chance = ((first + both) * (second + both) + (neither + second) * (neither + first)) / items**2
    return ((neither + both) / items - by_chance) / (1 - by_chance)


def promised_threshold(positives: Sequence[float], *, catch: float, confidence: float) -> float | None:
    """The highest threshold, in hundredths, at or above which a share `catch` of all positives scores, with confidence.

    MAPIE's Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052) with a fixed sequence: from 0 upwards each
    threshold is held to the exact binomial test, and the first that fails ends the search, so that many tests need no
    correction. None where the positives are too few for any threshold.
    """
    # It brings scikit-learn, and only a calibration needs it.
    from mapie.risk_control import BinaryClassificationController, BinaryRisk

    # Of its own `recall` it tests ceil(n * (1 - caught / n)) misses, by rounding one too many at four n of ten.
    missed = BinaryRisk(lambda truth, said: said == 0, lambda truth, said: truth == 1, higher_is_better=False)
    control = BinaryClassificationController(
        predict_function=lambda scores: np.column_stack((1 - scores, scores)),
        risk=missed,
        target_level=1 - catch,
        confidence_level=confidence,
        best_predict_param_choice=missed,
        list_predict_params=np.arange(101) / 100,
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():
        # That no threshold is valid, or all are, is what it returns; scores of 0 and 1 alone are scores.
        warnings.filterwarnings("ignore", category=UserWarning, module="mapie")
        control.calibrate(np.asarray(positives, float), np.ones(len(positives)))
    return max(control.valid_predict_params.tolist(), default=None)


def fewest_positives(*, catch: float, confidence: float) -> int:
    """How many positives there must be for any threshold to keep its promise: as many as all score above it."""
    return ceil(log(1 - confidence) / log(catch))


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


def calibration_error(stated: Sequence[float], happened: Sequence[float]) -> Figure:
    """Expected calibration error in [0, 1]: |stated - observed| over ten equal bins, weighed by their items.

    The error of a sample is biased upwards, that of a draw from it once more. So the interval reaches to both sides as
    far as the gaps of 95 % of the bootstrap's draws are from the sample's, all bins together: the error cannot move by
    more, and the interval is too wide rather than too narrow. Where all draws are the same, it is what so many items
    alike can hide, as in `mean`.
    """
    if not stated:
        return NOT_MEASURED
    chances = np.asarray(stated, float)
    bins = np.minimum((chances * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = chances - np.asarray(happened, float)
    # Sorted, so that the resampling does not hang on the order of the trials.
    order = np.lexsort((gaps, bins))
    bins, gaps, items = bins[order], gaps[order], len(gaps)
    seen = np.bincount(bins, gaps, CALIBRATION_BINS) / items
    value = float(np.abs(seen).sum())
    drawn = np.random.default_rng(0).integers(items, size=(RESAMPLES // 4, items))
    moved = [np.abs(np.bincount(bins[at], gaps[at], CALIBRATION_BINS) / items - seen).sum() for at in drawn]
    reach = float(np.quantile(moved, CONFIDENCE))
    if reach < SAME_DRAWS:
        return _alike(value, items, (0, 1))
    return Figure(value, max(0.0, value - reach), min(1.0, value + reach))


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


def p_worse(found: Flips) -> float:
    """The one-sided exact McNemar p: how likely so many flips for the worse are, or more, where both ways are as
    likely."""
    flipped = found.better + found.worse
    return float(binomtest(found.worse, flipped, alternative="greater").pvalue) if flipped else 1.0


def least_share(count: int, items: int) -> float:
    """The lower end of the one-sided exact (Clopper-Pearson) 95 % interval of a share."""
    return float(binomtest(count, items, alternative="greater").proportion_ci(CONFIDENCE, method="exact").low)


def least_p_value(pairs: int) -> float:
    """The smallest p that the exact McNemar test can give on so many pairs: that of all flipping the same way."""
    return min(1.0, 2 * 0.5**pairs)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """The p values as they are for one of several tests, after Benjamini and Hochberg (1995)."""
    return [float(p) for p in false_discovery_control(p_values)] if p_values else []


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> Figure:
    """Mean of after minus before over the same items, with `mean`'s interval over items."""
    return mean([float(a) - float(b) for b, a in zip(before, after, strict=True)], bounds=(-1, 1))


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
