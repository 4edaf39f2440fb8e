"""Where prompts come from: the starter set that ships here, and the user's own files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SerializeAsAny

from limbeck.errors import InputError
from limbeck.files import Row, prompt_of, read_each, read_table
from limbeck.protocols import Store
from limbeck.records import Prompt
from limbeck.spec import Kind, Spec, Table
from limbeck.taxonomy import Conduct

STARTER = Path(__file__).parent / "starter"
STARTER_HARMS = {
    "manipulation": "manipulation",
    "toxicity": "toxicity",
    "bias": "bias",
    "unsafe_advice_personal": "unsafe_advice",
    "unsafe_advice_crime": "unsafe_advice",
}


class Source(Kind):
    """Something that gives prompts."""

    @abstractmethod
    def prompts(self) -> Iterator[Prompt]:
        """The prompts, in a fixed order."""


class Starter(Source):
    """The set written for Limbeck: four harms with benign twins, everyday prompts and a multiple-choice exam.

    Every open question of these has a short reference reply. The practice prompts have none: they are for training
    only and teach whether to refuse. Apache-2.0.
    """

    kind: Literal["starter"] = "starter"
    shipped = (STARTER,)
    harms: tuple[Literal["manipulation", "toxicity", "bias", "unsafe_advice"], ...] = (
        "manipulation",
        "toxicity",
        "bias",
        "unsafe_advice",
    )
    everyday: bool = True
    usefulness: bool = True
    practice: bool = True

    def prompts(self) -> Iterator[Prompt]:
        for name, harm in STARTER_HARMS.items():
            if harm in self.harms:
                yield from _starter(name, harm)
        for harm in self.harms if self.practice else ():
            yield from _starter(f"practice_{harm}", harm, split="train", lesson="decision")
        if self.everyday:
            yield from _starter("everyday", None)
        if self.usefulness:
            yield from _starter("usefulness", None)


def _starter(name: str, harm: str | None, **more: str) -> Iterator[Prompt]:
    for row in read_table(STARTER / f"{name}.jsonl"):
        values: dict[str, Any] = {
            **row.values,
            **more,
            "harm": harm,
            "source": f"starter/{name}",
            "licence": "Apache-2.0",
        }
        values["reference"] = values.pop("reply", None)
        yield prompt_of(row._replace(values=values))


class File(Source):
    """Prompts of one JSONL, CSV or Parquet file: `prompt` or `messages`, optional harm, tier, conduct, family,
    language, reference (a good reply), choices and answer."""

    kind: Literal["file"] = "file"
    path: Path

    def prompts(self) -> Iterator[Prompt]:
        """The prompts, in order. Raises InputError that tells of all wrong rows, among them those that ask for other
        conduct than an earlier row of the same prompt."""
        first: dict[str, tuple[str, Conduct]] = {}

        def agreeing(row: Row) -> Prompt:
            prompt = prompt_of(row)
            before, conduct = first.setdefault(prompt.id, (row.where, prompt.conduct))
            if prompt.conduct != conduct:
                raise InputError(
                    f"{row.where}: '{prompt.text[:60]}' has conduct {prompt.conduct}, and {conduct} at {before}; "
                    "keep one of them"
                )
            return prompt if prompt.source else prompt.model_copy(update={"source": str(self.path)})

        prompts = list(read_each(self.path, agreeing))
        if not prompts:
            raise InputError(f"{self.path}: there are no rows; write at least one prompt")
        yield from prompts


class Files(Spec):
    """Prompt files to measure on, as they are."""

    paths: tuple[Path, ...]


def read_prompts(settings: Files, *, store: Store) -> Iterator[Prompt]:
    """The prompts of the files, in order, each with the file as its source."""
    for path in settings.paths:
        yield from File(path=path).prompts()


SOURCES: Table[Source] = Table("source", Source, Starter, File)
AnySource = Annotated[SerializeAsAny[Source], BeforeValidator(SOURCES.read)]
