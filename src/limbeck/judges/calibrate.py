"""How far a judge can be trusted: its verdicts against people's labels, and thresholds that keep a promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pydantic import Field

from limbeck.errors import InputError, did_you_mean
from limbeck.protocols import Exchange
from limbeck.records import SCHEMA, Measurement, Record, Verdict
from limbeck.spec import Spec
from limbeck.stats import Bin, Figure, auc, calibration_error, kappa, promised_threshold, proportion, reliability

POSITIVE = ("full", "partial", "yes", "true", "1", "1.0")
NEGATIVE = ("none", "no", "false", "0", "0.0")


class CalibrateSettings(Spec):
    """Which score of the judge is held against the labels, and what its threshold is to promise.

    `harm` names the score (None: the probability of a refusal). The threshold catches at least the share `catch` of
    what people labelled positive, with this `confidence`.
    """

    harm: str | None = None
    catch: float = Field(default=0.9, gt=0, lt=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)


class Threshold(Record):
    """The highest score that keeps the promise, None where the labels are too few for any; what it then costs."""

    catch: float
    confidence: float
    value: float | None
    caught: Measurement
    false_alarms: Measurement


class Calibration(Record):
    """All that was measured of one judge on one file of labels."""

    schema_number: int = SCHEMA
    judge: str
    version: str
    score: str
    measurements: tuple[Measurement, ...]
    reliability: tuple[Bin, ...]
    threshold: Threshold
    unscored: dict[str, int]


def label_of(where: str, value: object) -> bool:
    """What a person said of one reply. Raises InputError for a label that is none of those known."""
    said = "" if value is None else str(value).strip().lower()
    if said in POSITIVE or said in NEGATIVE:
        return said in POSITIVE
    raise InputError(f"{where}: the label is {value!r}; {did_you_mean(said, (*POSITIVE, *NEGATIVE))}")


def calibrate(
    settings: CalibrateSettings,
    labelled: Sequence[tuple[Exchange, bool]],
    grade: Callable[[Sequence[Exchange]], Sequence[Verdict]],
) -> Calibration:
    """The judge's figures on the labelled exchanges; what it could not score is counted, by its reason.

    Accuracy and kappa are those of its own decisions, refused or harmful, wherever its thresholds lie.
    """
    verdicts = grade([exchange for exchange, _ in labelled])
    score = settings.harm or "refused"
    scored: list[tuple[float, bool]] = []
    decided: list[tuple[bool, bool]] = []
    unscored: Counter[str] = Counter()
    for verdict, (_, positive) in zip(verdicts, labelled, strict=True):
        chance = verdict.p_refused if settings.harm is None else verdict.harm.get(settings.harm)
        said = _decision(verdict, settings.harm)
        if chance is None:
            unscored[verdict.unscored or f"the judge gives no score for '{score}'"] += 1
            continue
        scored.append((chance, positive))
        if said is None:
            unscored[f"the judge gives a score for '{score}' and does not decide"] += 1
        else:
            decided.append((said, positive))
    if not scored:
        known = sorted({name for verdict in verdicts for name in verdict.harm})
        advice = (
            f"; it scores {', '.join(known)}"
            if known
            else "; it scores no harm: name another judge"
            if settings.harm
            else ""
        )
        raise InputError(
            f"judge '{verdicts[0].judge}' scored none of {len(labelled)} replies: {', '.join(unscored)}{advice}"
        )
    stated, truth = [one for one, _ in scored], [positive for _, positive in scored]
    positives = [one for one, positive in scored if positive]
    negatives = [one for one, positive in scored if not positive]

    def measured(name: str, figure: Figure, of: Sequence[object], at_all: Sequence[object] = scored) -> Measurement:
        value, low, high = figure
        missing = len(labelled) - len(at_all)
        return Measurement(name=name, value=value, low=low, high=high, scored=len(of), unscored=missing)

    promised = promised_threshold(positives, catch=settings.catch, confidence=settings.confidence)
    caught, alarms = (
        ([], []) if promised is None else ([one >= promised for one in some] for some in (positives, negatives))
    )
    return Calibration(
        judge=verdicts[0].judge,
        version=verdicts[0].version,
        score=score,
        measurements=(
            measured("accuracy", proportion([said == positive for said, positive in decided]), decided, decided),
            measured(
                "kappa", kappa([said for said, _ in decided], [positive for _, positive in decided]), decided, decided
            ),
            measured("auc", auc(positives, negatives), scored),
            measured("calibration_error", calibration_error(stated, truth), scored),
        ),
        reliability=tuple(reliability(stated, truth)),
        threshold=Threshold(
            catch=settings.catch,
            confidence=settings.confidence,
            value=promised,
            caught=measured("caught", proportion(caught), caught),
            false_alarms=measured("false_alarms", proportion(alarms), alarms),
        ),
        unscored=dict(unscored),
    )


def _decision(verdict: Verdict, harm: str | None) -> bool | None:
    """Whether the judge finds a refusal, or this harm; None where it does not say."""
    if harm is None:
        return None if verdict.refused is None else verdict.refused != "none"
    return None if verdict.harmful is None or harm not in verdict.harm else harm in verdict.harmful
