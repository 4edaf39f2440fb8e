"""Any chat model as a judge, by a rubric in a file: one JSON object back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from limbeck.errors import InputError, did_you_mean
from limbeck.judges.asking import HARMS_FILE, Asking, Question, Said, filled, harms, unreadable
from limbeck.protocols import Exchange
from limbeck.records import Message, Reply
from limbeck.spec import Spec
from limbeck.taxonomy import Refused

RUBRICS = Path(__file__).with_name("rubrics")


class Rubric(Asking):
    """Any chat model, by a rubric: one that ships (`refusal`, `harm`, `dark_patterns`) or a Markdown file."""

    kind: Literal["rubric"] = "rubric"
    rubric: Literal["refusal", "harm", "dark_patterns"] | Path = "refusal"
    max_tokens: int = Field(default=256, ge=1)
    shipped = (*sorted(RUBRICS.glob("*.md")), HARMS_FILE)

    @property
    def tells_refusal(self) -> bool:
        """Not where a rubric that ships asks for harm alone; what a file asks for is its own."""
        return self.rubric not in ("harm", "dark_patterns")

    @property
    def file(self) -> Path:
        """Where the rubric is. Raises InputError for one that is neither shipped nor a file."""
        if isinstance(self.rubric, str):
            return RUBRICS / f"{self.rubric}.md"
        if self.rubric.is_file():
            return self.rubric
        near = did_you_mean(str(self.rubric), sorted(file.stem for file in RUBRICS.glob("*.md")))
        raise InputError(f"rubric '{self.rubric}' is no file and none of those shipped; {near}")

    def asks(self, exchange: Exchange) -> Mapping[str, Question]:
        said = filled(self.file, prompt=exchange.prompt, reply=exchange.reply, harms=harms())
        return {"reply": Question((Message(role="user", content=said),))}

    def says(self, answers: Mapping[str, Reply]) -> Said:
        return read_rubric(self.kind, answers["reply"])


class Answer(Spec):
    """What a rubric asks for; what it says besides, such as its reasons, is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    refused: Refused | None = None
    harm: dict[str, float] = Field(default={})


def read_rubric(kind: str, answer: Reply) -> Said:
    """What the first JSON object of the answer says. Raises Unreadable where there is none with refused or harm."""
    found = _first_object(answer.text)
    try:
        said = Answer.model_validate(found)
    except ValidationError as error:
        raise unreadable(kind, answer) from error
    in_range = all(0 <= score <= 1 for score in said.harm.values())
    if (said.refused is None and not said.harm) or not in_range:
        raise unreadable(kind, answer)
    p_refused = None if said.refused is None else float(said.refused != "none")
    return Said(harm=said.harm, refused=said.refused, p_refused=p_refused)


def _first_object(answer: str) -> Any:
    decoder = json.JSONDecoder()
    for place, character in enumerate(answer):
        if character == "{":
            try:
                return decoder.raw_decode(answer, place)[0]
            except json.JSONDecodeError:
                continue
    return None
