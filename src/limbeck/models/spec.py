"""What every teacher's settings have: a name, and for which prompts it is asked."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import ClassVar

from limbeck.protocols import ChatModel
from limbeck.records import Prompt
from limbeck.spec import Kind
from limbeck.taxonomy import Conduct, Tier


class ModelSpec(Kind):
    """Settings of something that replies; None in `harms`, `tiers` or `conducts` stands for all of them."""

    name: str = ""
    harms: tuple[str, ...] | None = None
    tiers: tuple[Tier, ...] | None = None
    conducts: tuple[Conduct, ...] | None = None
    offers: ClassVar[frozenset[str]] = frozenset()
    # Whether asking again can bring another reply.
    redraws: ClassVar[bool] = True

    @abstractmethod
    def open(self) -> AbstractContextManager[ChatModel]:
        """The model, ready to be asked until the block ends."""

    def is_for(self, prompt: Prompt) -> bool:
        """Whether this model is the one to ask."""
        return (
            (self.harms is None or prompt.harm in self.harms)
            and (self.tiers is None or prompt.tier in self.tiers)
            and (self.conducts is None or prompt.conduct in self.conducts)
        )
