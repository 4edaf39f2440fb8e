"""Things that grade a reply."""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from limbeck.judges.harm import Harmful
from limbeck.judges.refusal import Refusal
from limbeck.judges.spec import JudgeSpec
from limbeck.spec import Table

JUDGES: Table[JudgeSpec] = Table("judge", JudgeSpec, Refusal, Harmful)
AnyJudge = Annotated[SerializeAsAny[JudgeSpec], BeforeValidator(JUDGES.read)]
