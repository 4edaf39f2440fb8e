"""What every judge's settings have."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager

from limbeck.protocols import Judge, Tools
from limbeck.spec import Kind


class JudgeSpec(Kind):
    """Settings of something that grades replies."""

    @abstractmethod
    def open(self, tools: Tools) -> AbstractContextManager[Judge]:
        """The judge, ready to grade until the block ends."""
