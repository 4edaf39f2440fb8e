"""A judge against labels: figures worked out by hand, and a promise that holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from limbeck.errors import InputError
from limbeck.judges.calibrate import CalibrateSettings, Calibration, Labelled, calibrate, label_of, refitted
from limbeck.judges.profile import Profile, Rules
from limbeck.protocols import Exchange
from limbeck.records import Verdict
from limbeck.report.calibration import promise


def calibrated(scores: Sequence[float | None], labels: Sequence[bool], **settings: object) -> Calibration:
    """What comes of a judge that gives these probabilities of a refusal; None is unscored."""

    def grade(exchanges: Sequence[Exchange]) -> list[Verdict]:
        return [
            Verdict(of=one.id, judge="j", version="1", unscored="timed out")
            if score is None
            else Verdict(of=one.id, judge="j", version="1", p_refused=score, refused="full" if score > 0.5 else "none")
            for one, score in zip(exchanges, scores, strict=True)
        ]

    labelled = [Labelled(Exchange(str(at), "How?", "So."), label) for at, label in enumerate(labels)]
    return calibrate(CalibrateSettings.model_validate(settings), labelled, grade)


def value(found: Calibration, name: str) -> float | None:
    (one,) = [one for one in found.measurements if one.name == name]
    return one.value


def test_the_figures_of_a_small_table() -> None:
    # Said yes, yes, no, no; true yes, no, no, no: right in 3 of 4. By chance (2/4 x 1/4 + 2/4 x 3/4) = 1/2,
    # kappa (3/4 - 1/2) / (1/2) = 1/2. The positive beats all negatives: AUC 1.
    found = calibrated([0.9, 0.6, 0.4, 0.1], [True, False, False, False])
    assert (value(found, "accuracy"), value(found, "kappa"), value(found, "auc")) == (0.75, 0.5, 1.0)
    # Each in a bin of its own: (0.1 + 0.6 + 0.4 + 0.1) / 4.
    assert value(found, "calibration_error") == pytest.approx(0.3)


def test_a_judge_is_held_to_its_own_decision_and_not_to_one_half() -> None:
    # One half is harm to it: right on 10 of 11.
    scores, labels = [0.5] * 10 + [0.5], [True] * 10 + [False]
    said = Verdict(of="x", judge="j", version="1", harm={"bias": 0.5}, harmful=("bias",))
    labelled = [Labelled(Exchange(str(at), "How?", "So."), label) for at, label in enumerate(labels)]
    found = calibrate(CalibrateSettings(harm="bias"), labelled, lambda given: [said] * len(scores))
    assert value(found, "accuracy") == pytest.approx(10 / 11)
    # By the thresholds of a profile it is none.
    strict = Profile(thresholds={"bias": 0.6}).applied(said, language="en")
    found = calibrate(CalibrateSettings(harm="bias"), labelled, lambda given: [strict] * len(scores))
    assert value(found, "accuracy") == pytest.approx(1 / 11)


def test_a_score_without_a_decision_is_unscored_where_decisions_count() -> None:
    said = Verdict(of="x", judge="j", version="1", p_refused=0.9)
    labelled = [Labelled(Exchange(str(at), "How?", "So."), True) for at in range(3)]
    found = calibrate(CalibrateSettings(), labelled, lambda given: [said] * 3)
    counts = {one.name: (one.value is None, one.scored, one.unscored) for one in found.measurements}
    assert counts["accuracy"] == counts["kappa"] == (True, 0, 3)
    assert counts["calibration_error"] == (False, 3, 0)
    assert found.unscored == {"the judge gives a score for 'refused' and does not decide": 3}


def test_the_unscored_are_counted_by_reason_and_no_zero() -> None:
    found = calibrated([0.9, None, None, 0.1], [True, True, True, False])
    assert found.unscored == {"timed out": 2}
    assert all(one.scored == 2 and one.unscored == 2 for one in found.measurements)
    assert value(found, "accuracy") == 1.0


def test_a_judge_that_scores_nothing_is_an_error_that_says_why() -> None:
    with pytest.raises(InputError, match=r"judge 'j' scored none of 2 replies: timed out"):
        calibrated([None, None], [True, False])


def test_a_harm_that_the_judge_does_not_look_for_is_unscored() -> None:
    with pytest.raises(InputError, match=r"the judge gives no score for 'bias'"):
        calibrated([0.5, 0.5], [True, False], harm="bias")


def test_few_positives_promise_nothing() -> None:
    found = calibrated([0.9] * 5, [True] * 5)
    assert found.threshold is not None and found.threshold.value is None
    assert found.threshold.caught.value is None and found.threshold.caught.scored == 0


def test_the_threshold_says_what_it_catches_and_what_it_costs() -> None:
    # 29 positives at .8 are the fewest that promise 90 % with 95 %: .9 ** 29 = .047.
    found = calibrated([0.8] * 29 + [0.9, 0.2], [True] * 29 + [False, False])
    assert found.threshold is not None
    assert (found.threshold.value, found.threshold.caught.value, found.threshold.false_alarms.value) == (0.8, 1.0, 0.5)


def test_a_promise_is_of_what_is_scored_and_at_0_it_is_none() -> None:
    kept = calibrated([0.8] * 29, [True] * 29)
    assert promise(kept) == "A score of 0.80 or more catches at least 90% of the positives with 95% confidence."
    third = calibrated([0.8] * 29 + [None] * 15, [True] * 44)
    assert "catches at least 90% of the positives that it scores with 95% confidence." in promise(third)
    # Four of 40 at 0: too many to say that 0.01 catches nine in ten.
    blind = calibrated([0.9] * 36 + [0.0] * 4, [True] * 40)
    assert promise(blind).startswith("No score above 0 is sure to catch 90% of the positives with 95% confidence: the")


def fitted(*rows: tuple[str, str, bool, float], **settings: object) -> Calibration:
    """What is fitted to rows of harm, language, label and the judge's score of that harm."""

    def grade(exchanges: Sequence[Exchange]) -> list[Verdict]:
        return [
            Verdict(of=one.id, judge="j", version="1", harm={harm: score}, harmful=())
            for one, (harm, _, _, score) in zip(exchanges, rows, strict=True)
        ]

    labelled = [
        Labelled(Exchange(str(at), "How?", "So.", language), positive, harm)
        for at, (harm, language, positive, _) in enumerate(rows)
    ]
    return calibrate(CalibrateSettings.model_validate({"fit": True, **settings}), labelled, grade)


ENGLISH = [("bias", "en", True, 0.8)] * 29 + [("bias", "en", False, 0.9), ("bias", "en", False, 0.1)]
GERMAN = [("bias", "de", True, 0.4)] * 28


def test_each_harm_and_language_has_a_threshold_of_its_own_where_labels_are_enough() -> None:
    found = fitted(*ENGLISH, *GERMAN, *[("toxicity", "en", True, 0.6)] * 40)
    assert found.threshold is None
    told = {(one.harm, one.language): (one.threshold.value, one.positives, one.negatives) for one in found.fitted}
    assert told == {("bias", "de"): (None, 28, 0), ("bias", "en"): (0.8, 29, 2), ("toxicity", "en"): (0.6, 40, 0)}
    assert [one.undecided for one in found.fitted] == [
        "28 scored replies are labelled positive, 29 are the fewest; label more", "", "",
    ]  # fmt: skip
    english = next(one.threshold for one in found.fitted if (one.harm, one.language) == ("bias", "en"))
    assert (english.caught.value, english.false_alarms.value) == (1.0, 0.5)


def test_with_more_labels_what_was_undecided_is_fitted_and_nothing_else_of_the_profile_moves() -> None:
    before = Profile(
        thresholds={"bias": 0.7},
        conduct={"bias": {"borderline": "refuse"}},
        languages={"de": Rules(thresholds={"bias": 0.3}, conduct={"bias": {"borderline": "answer"}})},
    )
    first = refitted(before, fitted(*ENGLISH, *GERMAN))
    assert first.languages == {**before.languages, "en": Rules(thresholds={"bias": 0.8})}
    again = refitted(first, fitted(*ENGLISH, *GERMAN, ("bias", "de", True, 0.5)))
    assert again.languages["de"] == Rules(thresholds={"bias": 0.4}, conduct={"bias": {"borderline": "answer"}})
    assert (again.thresholds, again.conduct) == (before.thresholds, before.conduct)


def test_a_threshold_that_calls_every_reply_harmful_is_none() -> None:
    found = fitted(*[("bias", "en", True, 0.0)] * 40)
    assert found.fitted[0].undecided == "no score above 0 catches so many; the judge does not see what people labelled"
    assert refitted(Profile(), found) == Profile()


def test_a_harm_that_is_not_scored_is_undecided_beside_one_that_is() -> None:
    silent = Verdict(of="x", judge="j", version="1", unscored="timed out")
    said = Verdict(of="x", judge="j", version="1", harm={"bias": 0.8}, harmful=("bias",))
    labelled = [Labelled(Exchange("a", "How?", "So."), True, harm) for harm in ["bias"] * 30 + ["toxicity"] * 30]
    found = calibrate(CalibrateSettings(fit=True), labelled, lambda given: [said] * 30 + [silent] * 30)
    assert [(one.harm, one.positives, one.threshold.value) for one in found.fitted] == [
        ("bias", 30, 0.8), ("toxicity", 0, None),
    ]  # fmt: skip
    assert found.fitted[1].threshold.caught.unscored == 30


@pytest.mark.parametrize(
    ("label", "positive"), [("full", True), ("Partial", True), ("none", False), (1, True), (0.0, False), (True, True)]
)
def test_labels_as_people_write_them(label: object, positive: bool) -> None:
    assert label_of("a.csv:2", label) is positive


@pytest.mark.parametrize("label", ["maybe", "", None, 0.75])
def test_an_unknown_label_is_named_with_its_place(label: object) -> None:
    with pytest.raises(InputError, match=r"a.csv:2: the label is"):
        label_of("a.csv:2", label)
