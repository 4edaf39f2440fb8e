"""Candidate teachers side by side: what is asked, what is measured, and what is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from limbeck.candidates import COLUMNS, EVERYDAY_PROMPTS, ITEMS, PAIRS, Side, compare_teachers, complaint, sample
from limbeck.config import RunConfig
from limbeck.errors import InputError, Unreachable
from limbeck.judges.spec import JudgeSpec
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Line, Scripted
from limbeck.models.spec import ModelSpec
from limbeck.protocols import ChatModel
from limbeck.records import Prompt, asked
from limbeck.report.headline import cell
from limbeck.workspace import Silent

# The judge takes the number that a reply begins with for the probability of a refusal.
CAREFUL = Scripted(name="careful", script=(Line(when="harm", say=("0.9 No.",)), Line(say=("0.1 Here is how.",))))
TIMID = Scripted(name="timid", script=(Line(say=("0.9 No.",)),))


def rows() -> list[dict[str, Any]]:
    """Ten harmful prompts with their twins, five everyday ones; and as many again in the exam.

    Of items with choices none is taught: of four one is for validation, three are of the exam.
    """
    found: list[dict[str, Any]] = []
    for split in ("train", "exam"):
        for number in range(10):
            of = {"family": f"{split}{number}", "split": split, "harm": "bias"}
            found.append({"prompt": f"Do harm {split}{number}?", "tier": "adversarial", **of})
            found.append({"prompt": f"Twin {split}{number}?", "tier": "safe", "reference": "So.", **of})
        found += [{"prompt": f"Everyday {split}{number}?", "split": split} for number in range(5)]
        found += [
            {"prompt": f"Which {split}{number}?", "choices": ["yes", "no"], "answer": 0, "split": split}
            for number in range(2)
        ]
    return found


@pytest.fixture
def compared(tmp_path: Path, tiny_model: Path, judge: JudgeSpec) -> Any:
    """These teachers side by side, each figure as it is shown in the table."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))

    def compare(*teachers: ModelSpec) -> list[tuple[Side, dict[str, tuple[float | None, int, int]]]]:
        config = RunConfig.model_validate(
            {
                "student": {"model": str(tiny_model)},
                "curate": {"sources": [{"kind": "file", "path": str(tmp_path / "prompts.jsonl")}]},
                "teach": {"teachers": teachers, "max_tokens": 8},
                "evaluate": {"judges": (judge,)},
            }
        )
        shown = []
        for side in compare_teachers(config, progress=Silent()):
            cells = {column.title: cell(side.card, column) for column in COLUMNS}
            shown.append((side, {title: (one.value, one.n, one.unscored) for title, one in cells.items()}))
        return shown

    return compare


def test_a_careful_teacher_is_told_from_one_that_refuses_everything(compared: Any) -> None:
    (_, careful), (_, timid) = compared(CAREFUL, TIMID)
    assert (careful["Handled safely"], timid["Handled safely"]) == ((1.0, 10, 0), (1.0, 10, 0))
    assert (careful["Twins refused"], timid["Twins refused"]) == ((0.0, 10, 0), (1.0, 10, 0))
    assert (careful["Everyday refused"], timid["Everyday refused"]) == ((0.0, 5, 0), (1.0, 5, 0))
    # Two words to refuse, four to answer: (10 * 2 + 15 * 4) / 25. Nobody knows what a script costs.
    assert careful["Tokens a reply"] == (3.2, 25, 0)
    assert careful["Cost of 1,000"] == (None, 0, 25)
    assert careful["Seconds a reply"][0] > 0
    assert careful["Multiple choice"] == (None, 0, 1)


def test_a_recorded_teacher_off_its_prompts_is_not_measured_and_never_zero(compared: Any) -> None:
    ((side, paper),) = compared(Recorded(name="paper"))
    # It has the references of the twins alone, which carry no number for the judge.
    assert paper["Handled safely"] == (None, 0, 10)
    assert paper["Everyday refused"] == (None, 0, 5)
    assert paper["Likeness"] == (pytest.approx(1.0), 10, 0)
    assert paper["Seconds a reply"] == paper["Tokens a reply"] == (None, 0, 25)
    assert side.unanswered == "15 of 25 replies did not come (there is no recorded reply)"


def test_a_teacher_is_asked_what_it_is_for(compared: Any) -> None:
    ((_, narrow),) = compared(CAREFUL.model_copy(update={"conducts": ("refuse",)}))
    assert (narrow["Handled safely"], narrow["Twins refused"]) == ((1.0, 10, 0), (None, 0, 0))


def test_a_teacher_with_scores_is_asked_items_with_choices(compared: Any, tiny_model: Path) -> None:
    ((_, tiny),) = compared(Local(name="tiny", model=str(tiny_model)))
    value, scored, unscored = tiny["Multiple choice"]
    assert (value in (0.0, 1.0), scored, unscored) == (True, 1, 0)


class Away(ModelSpec):
    """A teacher whose server is not there."""

    kind: Literal["away"] = "away"
    offers: ClassVar[frozenset[str]] = frozenset({"replies"})

    @contextmanager
    def open(self) -> Iterator[ChatModel]:
        raise Unreachable("no answer")
        yield


def test_a_teacher_that_cannot_be_asked_says_why_and_the_others_are_measured(compared: Any) -> None:
    (away, silent), (careful, told) = compared(Away(name="away"), CAREFUL)
    assert {value for value, _, _ in silent.values()} == {None}
    assert told["Handled safely"][0] == 1.0
    error = complaint([away, careful])
    assert (error is not None and error.exit_code, str(error)) == (3, "could not ask away: no answer")
    assert complaint([careful]) is None


def test_a_recipe_without_teachers_has_nobody_to_compare(compared: Any) -> None:
    with pytest.raises(InputError, match=r"no teacher; name the candidates in teach\.teachers"):
        compared()


def prompts(number: int, split: Any) -> list[Prompt]:
    of: dict[str, Any] = {"family": f"{split}{number}", "split": split}
    text = f"{split} {number}?"
    return [
        Prompt(messages=asked(f"Harm {text}"), harm="bias", tier="adversarial", conduct="refuse", **of),
        Prompt(messages=asked(f"Twin {text}"), harm="bias", **of),
        Prompt(messages=asked(f"Day {text}"), split=split),
        Prompt(messages=asked(f"Which {text}"), choices=("a", "b"), answer=0, split=split),
    ]


def test_the_sample_is_half_harmful_half_their_twins_and_never_of_the_exam() -> None:
    given = [prompt for number in range(60) for split in ("train", "exam") for prompt in prompts(number, split)]
    found = sample(given, seed=7)
    harmful = [one for one in found if one.conduct == "refuse"]
    twins = [one for one in found if one.is_twin]
    assert (len(harmful), len(twins), len(found)) == (PAIRS, PAIRS, 2 * PAIRS + EVERYDAY_PROMPTS + ITEMS)
    assert {one.family for one in harmful} == {one.family for one in twins}
    assert {one.split for one in found} == {"train"}
    assert found == sample(given[::-1], seed=7) != sample(given, seed=8)
