"""Things that grade a reply."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SerializeAsAny

from limbeck.judges.asking import PromptGuard
from limbeck.judges.guards import GUARDS
from limbeck.judges.harm import Harmful
from limbeck.judges.jury import Jury
from limbeck.judges.refusal import Refusal
from limbeck.judges.reward import RewardModelJudge
from limbeck.judges.rubric import Rubric
from limbeck.judges.spec import JudgeSpec, telling_refusal, telling_safety
from limbeck.spec import Table

JUDGES: Table[JudgeSpec] = Table("judge", JudgeSpec, Refusal, Harmful, Rubric, Jury, RewardModelJudge, *GUARDS)
AnyJudge = Annotated[SerializeAsAny[JudgeSpec], BeforeValidator(JUDGES.read)]
SafetyJudge = Annotated[AnyJudge, AfterValidator(telling_safety)]
JudgeOfRefusal = Annotated[AnyJudge, AfterValidator(telling_refusal)]


def _asked_of_prompts(judge: JudgeSpec) -> PromptGuard:
    if not isinstance(judge, PromptGuard):
        able = ", ".join(kind for kind, member in JUDGES.items() if issubclass(member, PromptGuard))
        raise ValueError(f"judge '{judge.kind}' judges replies, and no prompt without one; use one of: {able}")
    return judge


PromptJudge = Annotated[SerializeAsAny[PromptGuard], BeforeValidator(_asked_of_prompts), BeforeValidator(JUDGES.read)]
