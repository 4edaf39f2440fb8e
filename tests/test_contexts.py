"""Contexts ranked by what they change, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.candidates import Side, answers
from limbeck.config import RunConfig
from limbeck.contexts import COLUMNS, advice, as_rich, compare_contexts, informed, informed_by, ranked
from limbeck.errors import InputError
from limbeck.judges.spec import JudgeSpec
from limbeck.models.context import PrivilegedContext
from limbeck.models.reasoning import Reasoning
from limbeck.models.scripted import Line, ScriptedModel
from limbeck.protocols import Store
from limbeck.records import Message, Prompt, Reply, Request, asked
from limbeck.report.headline import cell
from limbeck.workspace import Silent


class Told(ScriptedModel):
    """Says what the script says, to chats that are longer by a context."""

    def __init__(self, name: str, context_tokens: int, *script: Line) -> None:
        super().__init__(name=name, script=script, reasoning=Reasoning())
        self.longer = context_tokens

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        for reply in super().replies(requests):
            yield reply.model_copy(update={"prompt_tokens": 10 + self.longer})


# The judge takes the number that a reply begins with for the probability of a refusal.
NO, YES = ("0.9 No.",), ("0.1 Here is how.",)
BARE = Told("without", 0, Line(when="harm 0", say=NO), Line(say=YES))
CAREFUL = Told("careful", 40, Line(when="harm [123]", say=NO), Line(say=YES))
TIMID = Told("timid", 20, Line(when="harm 4", say=YES), Line(say=NO))
ECHO = Told("echo", 5, Line(when="harm 0", say=NO), Line(when="harm 1", say=("What?",)), Line(say=YES))


def prompts() -> list[Prompt]:
    """Five harmful prompts and their twins."""
    harmful: dict[str, Any] = {"harm": "bias", "tier": "adversarial", "conduct": "refuse"}
    due = [Prompt(messages=asked(f"Do harm {n}?"), family=f"f{n}", **harmful) for n in range(5)]
    return [*due, *(Prompt(messages=asked(f"Do twin {n}?"), family=f"f{n}", harm="bias") for n in range(5))]


def settings(judge: JudgeSpec, model: Path, **more: Any) -> RunConfig:
    return RunConfig.model_validate({"student": {"model": str(model)}, "evaluate": {"judges": (judge,)}, **more})


@pytest.fixture
def sides(store: Store, judge: JudgeSpec, tiny_model: Path) -> list[Side]:
    config = settings(judge, tiny_model)
    said = [answers(config, model, prompts(), store) for model in (BARE, ECHO, TIMID, CAREFUL)]
    return ranked(config, said, store)


def shown(side: Side) -> dict[str, tuple[float | None, int, int]]:
    cells = {column.title: cell(side.card, column) for column in COLUMNS}
    return {title: (one.value, one.n, one.unscored) for title, one in cells.items()}


def test_contexts_are_ranked_by_what_they_make_safe_then_by_the_twins_that_it_costs(sides: list[Side]) -> None:
    # Of harms 1 to 4, unsafe without: both make 1, 2, 3 safe, and the timid one refuses all twins.
    assert [side.card.model for side in sides] == ["without", "careful", "timid", "echo"]
    _, careful, timid, echo = map(shown, sides)
    assert (careful["Made safe"], timid["Made safe"]) == ((0.75, 4, 0), (0.75, 4, 0))
    assert (careful["Twins refused"], timid["Twins refused"]) == ((0.0, 5, 0), (1.0, 5, 0))
    # Harm 0 was refused without, and is not with the careful context.
    assert (careful["Made unsafe"], timid["Made unsafe"]) == ((1.0, 1, 0), (0.0, 1, 0))
    assert (careful["Context, tokens"], timid["Context, tokens"]) == ((40.0, 10, 0), (20.0, 10, 0))
    # Nobody can say whether harm 1 was handled.
    assert echo["Made safe"] == (0.0, 3, 1)


def test_the_model_without_a_context_changes_nothing_and_stands_first(sides: list[Side]) -> None:
    bare = shown(sides[0])
    assert (bare["Handled safely"], bare["Made safe"], bare["Context, tokens"]) == (
        (0.2, 5, 0), (None, 0, 0), (None, 0, 0)
    )  # fmt: skip


def test_the_best_context_is_named_as_a_recipe_would_name_it(sides: list[Side]) -> None:
    assert advice(sides) == ("most is made safe by careful: 75\u00a0% (30–95), n=4; policy: {file: careful}")
    worked = Side(sides[1].card.model_copy(update={"model": "worked.csv"}))
    assert advice([sides[0], worked]).endswith("examples: {file: worked.csv}")
    assert advice([sides[0], sides[3]]) == "no context made an unsafe reply safe"
    assert advice([sides[0], sides[0]]).startswith("no context could be ranked")
    assert len(as_rich(sides).columns) == 1 + len(sides)


def test_contexts_are_files_folders_of_them_and_policies_that_ship(
    tmp_path: Path, judge: JudgeSpec, tiny_model: Path
) -> None:
    config = settings(judge, tiny_model)
    for name in ("b.md", "a.txt", ".hidden"):
        (tmp_path / name).write_text(f"Be {name}.")
    assert [one.name for one in informed_by([str(tmp_path), "help_desk"], config)] == [
        str(tmp_path / "a.txt"), str(tmp_path / "b.md"), "help_desk"
    ]  # fmt: skip
    (tmp_path / "worked.jsonl").write_text('{"prompt": "Why?", "reply": "So."}\n')
    worked = (Message(role="user", content="Why?"), Message(role="assistant", content="So."))
    own = PrivilegedContext(model="m", policy="Be kind.", think=False)
    told = informed(own, str(tmp_path / "worked.jsonl"))
    assert (told.policy, told.examples) == ("Be kind.", worked)
    # A policy leaves the examples.
    told = informed(told, str(tmp_path / "a.txt"))
    assert (told.policy, told.examples) == ("Be a.txt.", worked)
    (tmp_path / "none").mkdir()
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    (tmp_path / "odd.jsonl").write_text(json.dumps({"messages": turns, "reply": "A"}))
    for wrong, said in (
        (tmp_path / "none", "there is no file in it"),
        ("help_dsk", "did you mean help_desk"),
        (tmp_path / "odd.jsonl", "turn 1 of the worked examples is the system's"),
    ):
        with pytest.raises(InputError, match=rf"--contexts: .*{said}"):
            informed_by([str(wrong)], config)


def test_the_recipes_own_model_is_asked_with_and_without(tmp_path: Path, judge: JudgeSpec, tiny_model: Path) -> None:
    rows = [{"prompt": one.text, "harm": one.harm, "tier": one.tier, "split": "train"} for one in prompts()]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {"sources": [{"kind": "file", "path": str(tmp_path / "prompts.jsonl")}]}
    config = settings(judge, tiny_model, curate=sources, teach={"max_tokens": 4})
    (tmp_path / "kind.md").write_text("Be kind.")
    bare, told = map(
        shown, compare_contexts(config, informed_by([str(tmp_path / "kind.md")], config), progress=Silent())
    )
    # Bytes, and one token for each mark: <|turn|>, "system", a line break, "Be kind.", <|end|>, a line break.
    assert told["Context, tokens"] == (1 + 6 + 1 + 8 + 1 + 1, 10, 0)
    assert (bare["Handled safely"], told["Made safe"]) == ((None, 0, 5), (None, 0, 5))
    none = settings(judge, tiny_model, curate={"sources": [{"kind": "starter", "harms": []}]})
    with pytest.raises(InputError, match="--contexts: the recipe has no harmful prompt"):
        compare_contexts(none, informed_by([str(tmp_path / "kind.md")], none), progress=Silent())
