"""What every teacher's settings have: a name, and for which prompts it is asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import ClassVar

from limbeck.models.reasoning import Reasoning
from limbeck.models.references import files_of, resolve
from limbeck.protocols import ChatModel
from limbeck.records import Prompt
from limbeck.spec import Kind, MayBeFolder
from limbeck.taxonomy import EVERYDAY, Conduct, Tier


class ModelSpec(Kind):
    """Settings of something that replies; None in `harms`, `tiers`, `conducts` or `languages` stands for all of them.

    A prompt without a harm is `everyday`.
    """

    name: str = ""
    harms: tuple[str, ...] | None = None
    tiers: tuple[Tier, ...] | None = None
    conducts: tuple[Conduct, ...] | None = None
    languages: tuple[str, ...] | None = None
    reasoning: Reasoning = Reasoning()
    # Whether asking again can bring another reply.
    redraws: ClassVar[bool] = True
    # Whether it is computed where it is opened, so that several workers can share the work.
    shareable: ClassVar[bool] = False

    @property
    @abstractmethod
    def offers(self) -> frozenset[str]:
        """What it gives: `replies`, and perhaps `scores`, a `distribution`, and the `whole distribution` of all ids."""

    @property
    def goes_on(self) -> bool:
        """Whether it goes on from a reply that somebody else began."""
        return True

    @property
    def tokens_of(self) -> str | None:
        """Folder, Hub id or short name with the tokenizer that its distributions are in; None where it gives none."""
        return None

    @abstractmethod
    def open(self) -> AbstractContextManager[ChatModel]:
        """The model, ready to be asked until the block ends."""

    def looked_up_later(self) -> Iterator[str]:
        """What no check can vouch for before the run. Raises InputError for a model that is nowhere."""
        for named in self._named:
            if resolve(named).is_on_hub:
                pinned = "" if "@" in named else "; without @revision a later change there redoes nothing"
                yield f"{named} is on the Hub, and is looked up when the run begins{pinned}"

    def fetch(self) -> None:
        """Has what it reads of the models that it names on this disk: of one that a server serves the tokenizer alone.

        Raises InputError for one that is nowhere, Unreachable for one that is on the Hub and cannot be had.
        """
        for named in self._named:
            files_of(resolve(named), weights=self.shareable)

    @property
    def _named(self) -> Iterator[str]:
        """The models in its settings."""
        for name, field in type(self).model_fields.items():
            named = getattr(self, name)
            if named and any(isinstance(mark, MayBeFolder) for mark in field.metadata):
                yield named

    def is_for(self, prompt: Prompt) -> bool:
        """Whether this model is the one to ask."""
        return (
            (self.harms is None or (prompt.harm or EVERYDAY) in self.harms)
            and (self.tiers is None or prompt.tier in self.tiers)
            and (self.conducts is None or prompt.conduct in self.conducts)
            and (self.languages is None or prompt.language in self.languages)
        )
