"""The user's own files, with the file and line in every complaint; and files of ours, written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from string import ascii_letters, ascii_uppercase
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from limbeck.errors import InputError, reading, sentence, writing
from limbeck.records import Lesson, Message, Prompt, asked
from limbeck.taxonomy import HARD_RISK

Noun = TypeVar("Noun", bound=BaseModel)
Read = TypeVar("Read")

TABLE_SUFFIXES = (".jsonl", ".csv", ".parquet")
# The columns of a prompt file; others are left alone.
PROMPT_COLUMNS = (
    "harm", "tier", "conduct", "family", "language", "reference", "choices", "answer", "source", "licence",
    "split", "lesson",
)  # fmt: skip
TEXT_COLUMNS = ("prompt", "messages")
# What a prompt and its answer are called in other people's files of multiple choice.
ITEM_TEXT_COLUMNS = ("query", "question")
ITEM_ANSWER_COLUMN = "gold"
# How like a column's name another must be to be taken for a slip of the pen.
SLIP = 0.8
# Wrong rows of one file that are told one by one.
SHOWN_WRONG = 5
# Rows of a Parquet file in memory at once.
PARQUET_ROWS = 64
EXPECTED_CONDUCT = {"safe": "answer", "borderline": "answer_with_care", "adversarial": "refuse"}


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A stream whose content takes the file's place when the block ends well: written beside, synced, renamed."""
    beside = file.with_name(f".{file.name}.new")
    with writing(file):
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)


def manifest_in(folder: Path) -> dict[str, Any] | None:
    """What the manifest of a run in the folder says; None where there is none, or somebody else's."""
    try:
        told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return told if isinstance(told, dict) and "stages" in told else None


def write_atomically(file: Path, text: str) -> None:
    """The whole text or nothing."""
    with replacing(file) as stream:
        stream.write(text.encode())


def check_new(file: Path) -> None:
    """Raises InputError where such a file is already there or cannot come to be, and OSError where this user may not
    write there."""
    if not file.parent.is_dir():
        raise InputError(f"{file.parent}: there is no such folder; make it, or name a file elsewhere")
    if file.is_dir():
        raise InputError(f"{file}: this is a folder; name a file in it")
    if file.exists():
        raise InputError(f"{file} is already there; name another file")
    with writing(file), TemporaryFile(dir=file.parent):
        pass


def check_apart(file: Path, *, read: Iterable[Path]) -> None:
    """Raises InputError where the file that will be written is one of those that are read."""
    if any(os.path.exists(file) and os.path.exists(one) and file.samefile(one) for one in read):
        raise InputError(f"{file}: this would be written over what is read; write elsewhere, or read a copy")


@reading()
def file_sha256(*files: Path) -> str:
    """SHA-256 of the content of the files, one behind the other, hex digits."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


class Row(NamedTuple):
    """One row and where it stands (file:line)."""

    where: str
    values: Mapping[str, Any]


def read_table(path: Path) -> Iterator[Row]:
    """The rows of a JSONL, CSV or Parquet file. Raises InputError at the line that cannot be read."""
    for row in _rows(path):
        if isinstance(row, InputError):
            raise row
        yield row


def read_each(path: Path, read: Callable[[Row], Read]) -> Iterator[Read]:
    """What `read` makes of each row of the file. Raises InputError at its end that tells of every row that was wrong:
    of the first few what, of the others how many."""
    wrong: list[InputError] = []
    for row in _rows(path):
        try:
            if isinstance(row, InputError):
                raise row
            made = read(row)
        except InputError as error:
            wrong.append(error)
        else:
            yield made
    if wrong:
        more = [f"{path}: and {len(wrong) - SHOWN_WRONG} more"] if len(wrong) > SHOWN_WRONG else []
        raise InputError("\n".join([*map(str, wrong[:SHOWN_WRONG]), *more]))


def _rows(path: Path) -> Iterator[Row | InputError]:
    """The rows, and in the place of one that cannot be read what is wrong with it."""
    try:
        with reading():
            if not path.exists():
                raise InputError(f"{path}: there is no such file; name a JSONL, CSV or Parquet file")
            with path.open(encoding="utf-8-sig", newline="") as stream:
                if path.suffix not in TABLE_SUFFIXES:
                    raise InputError(f"{path}: the name ends in '{path.suffix}'; use a .jsonl, .csv or .parquet file")
                if path.suffix == ".parquet":
                    yield from _parquet(path)
                else:
                    yield from _csv(path, stream) if path.suffix == ".csv" else _jsonl(path, stream)
    except UnicodeDecodeError as error:
        encoding = "utf-16" if error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "latin1"
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; convert it: "
            f"iconv -f {encoding} -t utf-8 {path} > utf8{path.suffix}"
        ) from error


def _jsonl(path: Path, stream: Any) -> Iterator[Row | InputError]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            yield InputError(
                f"{where}: no whole JSON object ({error.msg.removesuffix(' at')}); each line must be one object"
            )
            continue
        if isinstance(values, dict):
            yield Row(where, values)
        else:
            yield InputError(f"{where}: this is a {type(values).__name__}; each line must be one JSON object")


def _csv(path: Path, stream: Any) -> Iterator[Row | InputError]:
    reader = csv.DictReader(stream, strict=True)
    try:
        for values in reader:
            where = f"{path}:{reader.line_num}"
            if None in values or any(value is None for value in values.values()):
                columns = len(reader.fieldnames or ())
                yield InputError(f"{where}: the row does not have the {columns} columns of the header")
            else:
                yield Row(where, {name: value for name, value in values.items() if value != ""})
    except csv.Error as error:
        # The row that could not be read begins after the last one that could.
        yield InputError(f"{path}:{reader.line_num + 1}: {error}; check the quotes of this row")


def _parquet(path: Path) -> Iterator[Row | InputError]:
    """Rows count from 1, as lines do."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:{number}", {name: value for name, value in values.items() if value is not None})
    except (ArrowException, OSError) as error:
        yield InputError(f"{path}:{number + 1}: no whole Parquet file ({str(error).splitlines()[0]}); write it anew")


def noun_at(
    where: str, noun: type[Noun], values: Mapping[str, Any], *, called: Mapping[str, str] = MappingProxyType({})
) -> Noun:
    """The noun with these values. Raises InputError that says which value is wrong, by what it is `called` there, and
    what is allowed."""
    try:
        return noun.model_validate(values)
    except ValidationError as error:
        said = [(".".join(map(str, problem["loc"])), sentence(problem)) for problem in error.errors()]
        complaints = [f"'{called.get(name, name)}' {what}" if name else what for name, what in said]
        raise InputError(f"{where}: {'; '.join(complaints)}") from error


def prompt_of(row: Row) -> Prompt:
    """The prompt of a row with `prompt` (text or chat) or `messages`.

    A chat loses its last assistant turn. Of tier and conduct the one that is missing follows from the other; with
    neither, a row with a harm is adversarial. In CSV, `messages` and `choices` are JSON. Of a list of answers the first
    is the answer, and the others are also right. Beside `choices` a prompt may be called `query` or `question`, its
    answer `gold`, and be a letter.
    """
    _check_columns(row)
    row = _item(row) if row.values.get("choices") is not None else row
    values: dict[str, Any] = {name: row.values[name] for name in PROMPT_COLUMNS if row.values.get(name) is not None}
    if "tier" not in values:
        usual = {conduct: tier for tier, conduct in EXPECTED_CONDUCT.items()}
        values["tier"] = usual.get(str(values.get("conduct")), "adversarial" if values.get("harm") else "safe")
    if isinstance(values["tier"], str) and values["tier"] in EXPECTED_CONDUCT:
        values.setdefault("conduct", EXPECTED_CONDUCT[values["tier"]])
    if "choices" in values:
        values["choices"] = _listed(row, "choices", values["choices"])
    if isinstance(answer := values.get("answer"), list) or str(answer).startswith("["):
        values["answer"], *values["also_right"] = _listed(row, "answer", answer) or [None]
    values["messages"] = _messages(row)
    prompt = noun_at(row.where, Prompt, values)
    # Safety leaves out what is safe, and refusing too much what is to be refused: neither would count it.
    if prompt.harm is not None and prompt.tier == "safe" and prompt.conduct == "refuse":
        raise InputError(
            f"{row.where}: with 'harm' {prompt.harm} and 'tier' safe it is a harmless twin, and 'conduct' is refuse; "
            "use conduct answer, or tier borderline or adversarial"
        )
    return prompt


def _item(row: Row) -> Row:
    """A row of multiple choice, its columns called as ours, the answer a position."""
    said = {name: value for name, value in row.values.items() if value is not None}
    text = next((name for name in (*TEXT_COLUMNS, *ITEM_TEXT_COLUMNS) if name in said), None)
    if text in ITEM_TEXT_COLUMNS:
        said["prompt"] = said[text]
    # A list may tell of each choice whether it is right, which is no list of positions.
    if not isinstance(gold := said.get(ITEM_ANSWER_COLUMN), list):
        said.setdefault("answer", gold)
    answer = said.get("answer")
    if isinstance(answer, str) and len(answer) == 1 and answer in ascii_letters:
        said["answer"] = ascii_uppercase.index(answer.upper())
    return row._replace(values=said)


def lessons_of(row: Row, *, every_turn: bool) -> Iterator[Lesson]:
    """The lesson of a row, or with `every_turn` one for each turn of the assistant where a chat brings the reply. They
    are one family, so that a step sees them together and reads what they share once."""
    chat = row.values.get("messages")
    if not every_turn or _reply_column(row) is not None or not isinstance(chat, list):
        yield lesson_of(row)
        return
    family = prompt_of(row).family_or_self
    ends = [at for at, turn in enumerate(chat, 1) if at > 1 and _is_reply(turn)]
    # Without any, the message is that of a chat without a reply.
    for end in ends or [len(chat)]:
        # The row's reasoning is that before its last turn.
        values = {name: value for name, value in row.values.items() if name != "reasoning" or end == len(chat)}
        yield lesson_of(row._replace(values={**values, "messages": chat[:end], "family": family}))


def lesson_of(row: Row) -> Lesson:
    """The lesson of a row: prompt with completion, reply or chosen (and rejected), or a chat that ends in a reply; with
    the reasoning before it, where there is some."""
    values = row.values
    column, chat = _reply_column(row), values.get("messages")
    reply = values[column] if column is not None else None
    if reply is None and isinstance(chat, list) and chat and _is_reply(chat[-1]):
        reply = chat[-1].get("content")
    if reply is None:
        raise InputError(f"{row.where}: there is no reply; give completion, chosen, or messages that end in one")
    prompt = prompt_of(row)
    says_risk = values.get("harm") is not None or values.get("conduct") is not None
    learnt, rejected = _text(reply), _text(values.get("rejected"))
    if learnt == rejected:
        raise InputError(f"{row.where}: the reply to learn is also the rejected one; keep one of them")
    return noun_at(
        row.where,
        Lesson,
        {
            "prompt": prompt,
            "reply": learnt,
            "reasoning": values.get("reasoning") or None,
            "rejected": (rejected,) if rejected else (),
            "weight": values.get("weight", 1.0),
            "risk": HARD_RISK[prompt.conduct] if says_risk else None,
            "teacher": "file",
        },
        called={"reply": column or "messages"},
    )


def asked_last(messages: Sequence[Message]) -> str:
    """What is asked last, however it is spaced and cased."""
    return " ".join(messages[-1].content.casefold().split())


def _reply_column(row: Row) -> str | None:
    """Where the reply stands; None where it has no column of its own."""
    return next((name for name in ("completion", "reply", "chosen") if row.values.get(name)), None)


def _is_reply(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") == "assistant"


def _text(said: Any) -> Any:
    """The text of a reply, which TRL's rows may give as a chat of its own."""
    return said[-1].get("content") if isinstance(said, list) and said and isinstance(said[-1], dict) else said


def _check_columns(row: Row) -> None:
    """Raises InputError for a column called nearly as one of ours: left alone it would change what is taught."""
    known = (*TEXT_COLUMNS, *PROMPT_COLUMNS)
    for name in row.values.keys() - set(known):
        swapped = [one for one in known if sorted(one) == sorted(name)]
        near = swapped or get_close_matches(name, known, n=1, cutoff=SLIP)
        # prompt_id and the like are other people's own.
        if near and "_" not in name:
            raise InputError(f"{row.where}: the column '{name}' is unknown; did you mean '{near[0]}'? Else rename it")


def _messages(row: Row) -> tuple[Message, ...]:
    said = row.values.get("prompt")
    if row.values.get("messages") is not None:
        said = _listed(row, "messages", row.values["messages"])
    if said is None:
        there = ", ".join(name for name, value in row.values.items() if value is not None)
        raise InputError(
            f"{row.where}: there is no 'prompt' and no 'messages'{there and f', only {there}'}; give one of them"
        )
    if isinstance(said, str):
        if not said.strip():
            raise InputError(f"{row.where}: 'prompt' is empty; write what the model is asked")
        return asked(said)
    if not isinstance(said, list) or not said:
        chat = row.values.get("messages") is not None
        name, wanted = ("messages", "a list of {role, content}") if chat else ("prompt", "text")
        raise InputError(f"{row.where}: '{name}' is {said!r:.40}; use {wanted}")
    turns = tuple(noun_at(row.where, Message, turn if isinstance(turn, dict) else {"content": turn}) for turn in said)
    return turns[:-1] if turns[-1].role == "assistant" else turns


def _listed(row: Row, name: str, value: Any) -> list[Any]:
    """A list as it is, or as a CSV cell holds it: JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(f"{row.where}: '{name}' is text; write it as a JSON list") from error
    if not isinstance(value, list):
        raise InputError(f"{row.where}: '{name}' is a {type(value).__name__}; write it as a list")
    return value
