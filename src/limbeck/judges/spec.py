"""What every judge's settings have."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import ClassVar

from limbeck.protocols import Judge, Tools
from limbeck.spec import Kind


class JudgeSpec(Kind):
    """Settings of something that grades replies; one that `tells_safety` says who refused or who harms."""

    tells_safety: ClassVar[bool] = True

    @property
    def shareable(self) -> bool:
        """Whether it is computed where it is opened, a batch at a time, so that several workers can share the work."""
        return False

    @property
    def tells_refusal(self) -> bool:
        """Whether it says who refused."""
        return True

    @abstractmethod
    def open(self, tools: Tools) -> AbstractContextManager[Judge]:
        """The judge, ready to grade until the block ends."""


def telling_safety(judge: JudgeSpec) -> JudgeSpec:
    """The judge, which tells safety. Raises ValueError where it does not."""
    if not judge.tells_safety:
        raise ValueError(
            f"judge '{judge.kind}' says how good a reply is, not whether it refuses or harms; use it in teach.until or "
            "judges.judges"
        )
    return judge


def telling_refusal(judge: JudgeSpec) -> JudgeSpec:
    """The judge, which tells who refused. Raises ValueError where it never does."""
    if not judge.tells_refusal:
        raise ValueError(
            f"judge '{judge.kind}' as it is set never says whether a reply refuses; use refusal, qwen3_guard, "
            "wild_guard or a rubric of refusals"
        )
    return judge
