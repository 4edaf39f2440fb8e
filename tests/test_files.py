"""The user's files: what is wrong with a row is said with its file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limbeck.config import load_config
from limbeck.errors import InputError
from limbeck.files import Row, file_sha256, prompt_of, read_each, read_table
from limbeck.records import Message, Prompt
from limbeck.spec import content_hash


def prompts(file: Path, text: str | bytes) -> list[Prompt]:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [prompt_of(row) for row in read_table(file)]


def complaint(file: Path, text: str | bytes) -> str:
    with pytest.raises(InputError) as raised:
        prompts(file, text)
    return str(raised.value).replace(f"{file.parent}/", "")


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_columns_of_a_row_become_the_prompt(tmp_path: Path) -> None:
    row = {"prompt": "How?", "harm": "bias", "tier": "borderline", "family": "f", "language": "de", "extra": 1}
    (prompt,) = prompts(tmp_path / "a.jsonl", jsonl(row))
    assert (prompt.text, prompt.harm, prompt.tier, prompt.family, prompt.language) == (
        "How?",
        "bias",
        "borderline",
        "f",
        "de",
    )


def test_tier_and_conduct_follow_from_each_other_and_a_harm_alone_is_adversarial(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a"},
        {"prompt": "b", "harm": "bias"},
        {"prompt": "c", "tier": "borderline"},
        {"prompt": "d", "harm": "bias", "tier": "safe"},
        {"prompt": "e", "harm": "bias", "conduct": "answer_with_care"},
    ]
    found = [(one.tier, one.conduct) for one in prompts(tmp_path / "a.jsonl", jsonl(*rows))]
    assert found == [
        ("safe", "answer"),
        ("adversarial", "refuse"),
        ("borderline", "answer_with_care"),
        ("safe", "answer"),
        ("borderline", "answer_with_care"),
    ]


def test_a_torn_line_is_named_with_its_number(tmp_path: Path) -> None:
    assert complaint(tmp_path / "a.jsonl", '{"prompt": "whole"}\n\n{"prompt": "to').startswith(
        "a.jsonl:3: no whole JSON object"
    )


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "3", "null"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    assert complaint(tmp_path / "a.jsonl", line + "\n").startswith("a.jsonl:1: this is a ")


@pytest.mark.parametrize("empty", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_named(tmp_path: Path, empty: str) -> None:
    said = complaint(tmp_path / "a.jsonl", jsonl({"prompt": "fine"}, {"prompt": empty}))
    assert said == "a.jsonl:2: 'prompt' is empty; write what the model is asked"


@pytest.mark.parametrize(
    "row",
    [{"messages": [{"role": "user", "content": "  "}]}, {"messages": [{"role": "assistant", "content": "Hello."}]}],
)
def test_a_chat_in_which_nothing_is_asked_is_empty(tmp_path: Path, row: dict[str, Any]) -> None:
    assert (
        complaint(tmp_path / "a.jsonl", jsonl(row)) == "a.jsonl:1: the prompt is empty; write what the model is asked"
    )


@pytest.mark.parametrize(
    ("row", "there"), [({"text": "How?", "tier": "safe"}, ", only text, tier"), ({"prompt": None}, "")]
)
def test_a_row_without_a_prompt_is_named_with_what_it_has(tmp_path: Path, row: dict[str, Any], there: str) -> None:
    assert complaint(tmp_path / "a.jsonl", jsonl(row)) == (
        f"a.jsonl:1: there is no 'prompt' and no 'messages'{there}; give one of them"
    )


def test_a_prompt_that_is_no_text_is_shown(tmp_path: Path) -> None:
    for row, said in (
        ({"prompt": 5}, "'prompt' is 5; use text"),
        ({"prompt": []}, "'prompt' is []; use text"),
        ({"messages": []}, "'messages' is []; use a list of {role, content}"),
    ):
        assert complaint(tmp_path / "a.jsonl", jsonl(row)) == f"a.jsonl:1: {said}"


@pytest.mark.parametrize(("slip", "meant"), [("teir", "tier"), ("harms", "harm"), ("Conduct", "conduct")])
def test_a_slip_of_the_pen_in_a_column_is_told_and_not_left_out(tmp_path: Path, slip: str, meant: str) -> None:
    said = complaint(tmp_path / "a.jsonl", jsonl({"prompt": "How?", slip: "safe"}))
    assert said == f"a.jsonl:1: the column '{slip}' is unknown; did you mean '{meant}'? Else rename it"


def test_columns_of_other_people_are_left_alone(tmp_path: Path) -> None:
    others = (
        "id",
        "prompt_id",
        "response",
        "question",
        "label",
        "category",
        "type",
        "time",
        "topic",
        "text",
        "score",
        "model",
    )
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl({"prompt": "How?", **dict.fromkeys(others, "x"), "completion": "So."}))
    assert [prompt_of(row).text for row in read_table(path)] == ["How?"]


def test_an_unknown_tier_says_which_are_known(tmp_path: Path) -> None:
    said = complaint(tmp_path / "a.jsonl", jsonl({"prompt": "a"}, {"prompt": "b", "tier": "medium"}))
    assert said == "a.jsonl:2: 'tier' is 'medium'; use safe, borderline or adversarial"


def test_a_tier_that_is_no_text_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path / "a.jsonl", jsonl({"prompt": "b", "tier": ["safe"]})).startswith("a.jsonl:1: 'tier' is")


def test_a_twin_that_must_be_refused_says_that_it_is_none(tmp_path: Path) -> None:
    twin = {"prompt": "Why?", "harm": "bias", "tier": "safe"}
    assert complaint(tmp_path / "a.jsonl", jsonl(twin, twin | {"prompt": "How?", "conduct": "refuse"})) == (
        "a.jsonl:2: with 'harm' bias and 'tier' safe it is a harmless twin, and 'conduct' is refuse; use conduct "
        "answer, or tier borderline or adversarial"
    )
    assert prompt_of(Row("a.jsonl:1", {"prompt": "Why?", "tier": "safe", "conduct": "refuse"})).conduct == "refuse"


def test_an_unknown_role_is_named(tmp_path: Path) -> None:
    said = complaint(tmp_path / "a.jsonl", jsonl({"messages": [{"role": "bot", "content": "Hi"}]}))
    assert said == "a.jsonl:1: 'role' is 'bot'; use system, user or assistant"


@pytest.mark.parametrize("row", [{}, {"answer": None}, {"answer": []}, {"gold": None}])
def test_choices_without_an_answer_say_that_it_is_missing(tmp_path: Path, row: dict[str, Any]) -> None:
    said = complaint(tmp_path / "a.jsonl", jsonl({"prompt": "Which?", "choices": ["a", "b"], **row}))
    assert said == "a.jsonl:1: 'answer' is missing; give the position of one of the 2 choices"


@pytest.mark.parametrize("answer", [2, -1])
def test_an_answer_that_is_none_of_the_choices_is_named(tmp_path: Path, answer: int) -> None:
    said = complaint(tmp_path / "a.jsonl", jsonl({"prompt": "Which?", "choices": ["a", "b"], "answer": answer}))
    assert said == f"a.jsonl:1: 'answer' is {answer}; use the position of one of the 2 choices"


def test_an_empty_choice_is_named(tmp_path: Path) -> None:
    said = complaint(tmp_path / "a.jsonl", jsonl({"prompt": "Which?", "choices": ["a", ""], "answer": 0}))
    assert said.startswith("a.jsonl:1: ")


def test_a_file_that_is_not_utf_8_says_how_to_convert_it(tmp_path: Path) -> None:
    said = complaint(tmp_path / "a.jsonl", '{"prompt": "Café?"}\n'.encode("latin1"))
    assert said.startswith("a.jsonl: byte 15 is not UTF-8; convert it: iconv -f latin1 -t utf-8")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_file_in_utf_16_is_not_taken_for_latin1(tmp_path: Path, encoding: str) -> None:
    said = complaint(
        tmp_path / "a.csv", "\ufeff".encode("utf-16-be") * (encoding != "utf-16") + "How?".encode(encoding)
    )
    assert said == "a.csv: byte 0 is not UTF-8; convert it: iconv -f utf-16 -t utf-8 a.csv > utf8.csv"


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert prompts(tmp_path / "a.csv", b"\xef\xbb\xbfprompt\nHow?\n")[0].text == "How?"


def test_a_csv_row_is_a_prompt_and_its_empty_cells_are_not_given(tmp_path: Path) -> None:
    first, second = prompts(tmp_path / "a.csv", 'prompt,harm,tier\n"How, then?",bias,\nWhy?,,\n')
    assert (first.text, first.harm, first.tier, second.harm, second.tier) == (
        "How, then?",
        "bias",
        "adversarial",
        None,
        "safe",
    )


@pytest.mark.parametrize("row", ["How?", "How?,bias,one too many"])
def test_a_csv_row_with_another_number_of_columns_is_named(tmp_path: Path, row: str) -> None:
    said = complaint(tmp_path / "a.csv", f"prompt,harm\nfine,bias\n{row}\n")
    assert said.startswith("a.csv:3: the row does not have the ")


def test_a_csv_row_with_too_many_columns_says_how_many_the_header_has(tmp_path: Path) -> None:
    said = complaint(tmp_path / "a.csv", "prompt,harm\nHow?,bias,one too many\n")
    assert said == "a.csv:2: the row does not have the 2 columns of the header"


def test_an_open_quote_is_named(tmp_path: Path) -> None:
    assert "check the quotes of this row" in complaint(tmp_path / "a.csv", 'prompt\n"How?\n')


def test_a_value_of_another_type_says_which_is_wanted(tmp_path: Path) -> None:
    said = complaint(tmp_path / "a.jsonl", jsonl({"prompt": "How?", "harm": 3, "answer": "b"}))
    assert said == "a.jsonl:1: 'harm' is 3; use text; 'answer' is 'b'; use a whole number"


def test_a_missing_file_and_another_kind_of_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl: there is no such file; name a JSONL, CSV or Parquet file"):
        list(read_table(tmp_path / "none.jsonl"))
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=r"a.txt: the name ends in '.txt'; use a .jsonl, .csv or .parquet file"):
        list(read_table(tmp_path / "a.txt"))


def test_the_rows_of_a_parquet_file_count_from_1_and_lack_what_is_null(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    chat = [{"role": "user", "content": "How?"}]
    rows = [{"prompt": "Why?", "messages": None}, {"prompt": None, "messages": chat}]
    pq.write_table(pa.Table.from_pylist(rows), file)
    assert list(read_table(file)) == [Row(f"{file}:1", {"prompt": "Why?"}), Row(f"{file}:2", {"messages": chat})]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a.parquet:1: no whole Parquet file \(.*\); write it anew"):
        list(read_table(file))


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path}: this is a folder and cannot be read as a file; name a file$"):
        list(read_table(tmp_path))


@pytest.mark.parametrize("read", [content_hash, file_sha256, lambda file: list(read_table(file)), load_config])
def test_a_locked_file_is_never_taken_for_one_that_cannot_be_written(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    (tmp_path / "a.jsonl").touch(mode=0)
    if os.access(tmp_path / "a.jsonl", os.R_OK):
        pytest.skip("this user (root) may read every file")
    with pytest.raises(InputError, match=r"a.jsonl: cannot be read \(Permission denied\)"):
        read(tmp_path / "a.jsonl")


USER, ASSISTANT = {"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [USER, ASSISTANT]},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": "How?", "completion": "So."},
        {"prompt": "How?", "chosen": "So.", "rejected": "No."},
    ],
)
def test_rows_as_trl_has_them_are_read_as_they_are(values: dict[str, Any]) -> None:
    assert prompt_of(Row("a:1", values)).messages == (Message(role="user", content="How?"),)


def test_earlier_turns_of_a_chat_are_kept() -> None:
    chat = [{"role": "system", "content": "Be kind."}, USER, ASSISTANT, {"role": "user", "content": "And then?"}]
    prompt = prompt_of(Row("a:1", {"messages": chat}))
    assert [turn.role for turn in prompt.messages] == ["system", "user", "assistant", "user"]
    assert prompt.text == "And then?"


def test_every_row_that_is_wrong_is_told_in_order_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,tier\nHow?,medium\nWhy?\nfine,safe\n"open\n')
    with pytest.raises(InputError) as raised:
        list(read_each(tmp_path / "a.csv", prompt_of))
    starts = [line.replace(f"{tmp_path}/", "")[:24] for line in str(raised.value).splitlines()]
    assert starts == ["a.csv:2: 'tier' is 'medi", "a.csv:3: the row does no", "a.csv:5: unexpected end "]


def test_every_row_of_a_file_with_an_absent_final_newline_is_read(tmp_path: Path) -> None:
    assert [one.text for one in prompts(tmp_path / "a.jsonl", '{"prompt": "a"}\n{"prompt": "b"}')] == ["a", "b"]


@pytest.mark.parametrize("given", [[1, 2], "[1, 2]"])
def test_of_several_answers_the_first_is_the_answer_and_the_others_are_right_too(given: object) -> None:
    row = Row("a.jsonl:1", {"prompt": "Which?", "choices": ["a", "b", "c"], "answer": given})
    assert (prompt_of(row).answer, prompt_of(row).also_right) == (1, (2,))


@pytest.mark.parametrize("given", [[], [3], [0, 3]])
def test_answers_that_are_no_choice_are_refused(given: list[int]) -> None:
    with pytest.raises(InputError, match=r"a.jsonl:1: 'answer' "):
        prompt_of(Row("a.jsonl:1", {"prompt": "Which?", "choices": ["a", "b", "c"], "answer": given}))


# As the files of several benchmarks and of the MosaicML Eval Gauntlet have them.
@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"query": "Which?", "choices": ["a", "b", "c"], "gold": 1}, 1),
        ({"question": "Which?", "choices": ["a", "b", "c"], "answer": "B"}, 1),
        ({"question": "Which?", "choices": '["a", "b", "c"]', "gold": "2"}, 2),
        ({"prompt": "Which?", "question": "Other?", "choices": ["a", "b", "c"], "answer": 0, "gold": 2}, 0),
    ],
)
def test_other_peoples_multiple_choice_is_read_as_it_is(row: dict[str, Any], answer: int) -> None:
    item = prompt_of(Row("a.jsonl:1", row))
    assert (item.text, item.choices, item.answer) == ("Which?", ("a", "b", "c"), answer)


@pytest.mark.parametrize("gold", [[0, 1, 0], 3, "D"])
def test_a_gold_answer_that_is_no_position_is_refused(gold: object) -> None:
    with pytest.raises(
        InputError, match=r"a.jsonl:1: 'answer' is (missing; give|3; use) the position of one of the 3 ch"
    ):
        prompt_of(Row("a.jsonl:1", {"query": "Which?", "choices": ["a", "b", "c"], "gold": gold}))


def test_without_choices_a_question_is_no_prompt(tmp_path: Path) -> None:
    assert complaint(tmp_path / "a.jsonl", jsonl({"question": "Which?", "gold": 1})).startswith(
        "a.jsonl:1: there is no 'prompt' and no 'messages', only question, gold"
    )


@pytest.mark.parametrize("name", ["piqa", "openbook_qa", "commonsense_qa", "copa"])
def test_published_multiple_choice_is_read_as_it_is(published: Path, name: str) -> None:
    rows = [row.values for row in read_table(published / "utility_mcq" / f"{name}.jsonl")]
    items = list(read_each(published / "utility_mcq" / f"{name}.jsonl", prompt_of))
    assert [(one.text, list(one.choices), one.answer) for one in items] == [
        (row["query"], row["choices"], row["gold"]) for row in rows
    ]
