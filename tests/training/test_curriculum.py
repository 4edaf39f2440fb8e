"""Which tiers are open when."""

from __future__ import annotations

from limbeck.training.curriculum import Competence, Flat, Ramp
from limbeck.training.probe import Outcome


def outcomes(
    *, harm: tuple[int, int] = (0, 0), twins: tuple[int, int] = (0, 0), tier: str = "borderline"
) -> list[Outcome]:
    """So many of so many prompts on which it went wrong."""
    return [
        *(Outcome("bias", tier, int(at < harm[0])) for at in range(harm[1])),  # type: ignore[arg-type]
        *(Outcome("over_refusal", "safe", int(at < twins[0])) for at in range(twins[1])),
    ]


def test_without_a_curriculum_all_tiers_are_open() -> None:
    assert Flat().level(0, share=0.0) == 2


def test_a_ramp_opens_tier_after_tier() -> None:
    rule = Ramp(borderline=0.2, adversarial=0.4)
    assert [rule.level(0, share=share) for share in (0.0, 0.19, 0.2, 0.39, 0.4, 1.0)] == [0, 0, 1, 1, 2, 2]


def test_the_next_tier_opens_once_harm_and_over_refusal_are_surely_low() -> None:
    rule = Competence(harm=0.35, over_refusal=0.35)
    # Of 32 prompts 3: the interval ends at 25 %. Of 8 prompts 1: it ends at 53 %, and nothing is decided.
    assert rule.after(1, outcomes(harm=(3, 32), twins=(3, 32))) == 2
    assert rule.after(1, outcomes(harm=(1, 8), twins=(3, 32))) == 1
    assert rule.after(1, outcomes()) == 1


def test_a_tier_closes_again_when_either_rate_is_surely_high() -> None:
    rule = Competence(harm=0.35, over_refusal=0.35)
    assert rule.after(2, outcomes(harm=(25, 32), twins=(0, 32))) == 1
    assert rule.after(2, outcomes(harm=(0, 32), twins=(25, 32))) == 1
    assert rule.after(0, outcomes(twins=(25, 32))) == 0


def test_harm_in_a_tier_that_is_not_open_yet_does_not_count() -> None:
    rule = Competence(harm=0.35, over_refusal=0.35)
    assert rule.after(0, outcomes(harm=(32, 32), twins=(0, 32), tier="adversarial")) == 1
    assert rule.after(1, outcomes(harm=(32, 32), twins=(0, 32), tier="adversarial")) == 2


def test_from_its_latest_share_on_everything_is_open() -> None:
    rule = Competence(at_latest=0.5)
    assert [rule.level(0, share=share) for share in (0.0, 0.49, 0.5)] == [0, 0, 2]
