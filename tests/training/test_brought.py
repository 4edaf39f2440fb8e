"""Soft targets that others made become those of the lessons, or it is told in which row they do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML

from limbeck.config import RunConfig
from limbeck.errors import InputError
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.forward_kl import ForwardKL
from limbeck.models.chat import prompt_ids, reply_ids
from limbeck.models.local import Local
from limbeck.models.references import load_tokenizer, resolve
from limbeck.protocols import Continuation, TopK
from limbeck.targets.cache import Targets
from limbeck.training import TrainSettings
from limbeck.training.brought import Brought, read_targets
from limbeck.training.lessons import LessonFile, LessonFiles, lessons_in
from limbeck.training.student import StudentSettings
from limbeck.verbs import train
from limbeck.workspace import StageStore

END = 0  # of a turn; a byte has the id of its letter in GPT-2's alphabet, from 2 on
ROW = {"prompt": "How?", "completion": "So."}


@pytest.fixture
def ids(tiny_model: Path) -> dict[str, int]:
    return dict(load_tokenizer(resolve(str(tiny_model))).get_vocab())


def files(folder: Path, *rows: dict[str, Any], supervise: str = "last") -> LessonFiles:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LessonFiles.model_validate({"files": [LessonFile(path=folder / "a.jsonl")], "supervise": supervise})


def targets(tiny_model: Path, store: StageStore, given: LessonFiles, captured: Path | None = None) -> list[TopK | None]:
    """The targets of the lessons, in their order."""
    student = Local(name="base", model=str(tiny_model))
    found = Targets.of(read_targets(Brought(lessons=given, captured=captured), student, store=store))
    return [found.get(lesson.id) for _, lesson in lessons_in(given)]


def said(token: str, p: float, **others: float) -> dict[str, Any]:
    """A token as OpenAI's API gives it, with other likely ones."""
    top = [{"token": name, "logprob": math.log(one), "bytes": list(name.encode())} for name, one in others.items()]
    return {"token": token, "logprob": math.log(p), "bytes": list(token.encode()), "top_logprobs": top}


def known(target: TopK | None, place: int) -> dict[int, float]:
    """The probabilities at a token, by id; that of the rest under -1."""
    assert target is not None
    row = zip(target.ids_NK[place].tolist(), target.logprobs_NK[place].exp().tolist(), strict=True)
    return {-1: float(target.tail_N[place].exp())} | {one: p for one, p in row if p > 0}


CONTENT = [said("S", 0.5, S=0.5, T=0.25, Sure=0.125), said("o", 0.75), said(".", 0.5, **{"!": 0.25})]


@pytest.mark.parametrize("content", [{"content": CONTENT}, CONTENT, json.dumps({"content": CONTENT})])
def test_tokens_that_a_server_names_are_the_students_and_others_count_to_the_rest(
    content: Any, tiny_model: Path, store: StageStore, ids: dict[str, int], tmp_path: Path
) -> None:
    (found,) = targets(tiny_model, store, files(tmp_path, {**ROW, "logprobs": content}))
    assert known(found, 0) == pytest.approx({ids["S"]: 0.5, ids["T"]: 0.25, -1: 0.25}, rel=1e-3)
    assert known(found, 1) == pytest.approx({ids["o"]: 0.75, -1: 0.25}, rel=1e-3)
    # Of the end of the turn nothing was told.
    assert known(found, 3) == {-1: 1.0}


def test_the_end_of_a_turn_is_a_token_like_others_where_the_server_tells_it(
    tiny_model: Path, store: StageStore, ids: dict[str, int], tmp_path: Path
) -> None:
    (found,) = targets(tiny_model, store, files(tmp_path, {**ROW, "logprobs": [*CONTENT, said("<|end|>", 0.5, x=0.5)]}))
    assert known(found, 3) == pytest.approx({END: 0.5, ids["x"]: 0.5, -1: 0.0}, abs=1e-3)


def test_a_part_of_a_letter_is_told_by_its_bytes_or_by_its_place(
    tiny_model: Path, store: StageStore, ids: dict[str, int], tmp_path: Path
) -> None:
    # 'é' is C3 A9, two tokens; GPT-2's alphabet writes these bytes as 'Ã' and '©'. vLLM has no bytes for the second.
    first = {"token": "\\xc3", "logprob": math.log(0.5), "bytes": [0xC3]}
    second = {"token": "\ufffd", "logprob": math.log(0.5), "bytes": list("\ufffd".encode())}
    row = {"prompt": "How?", "completion": "é", "logprobs": [first, second]}
    (found,) = targets(tiny_model, store, files(tmp_path, row))
    assert known(found, 0) == pytest.approx({ids["Ã"]: 0.5, -1: 0.5}, rel=1e-3)
    assert known(found, 1) == pytest.approx({ids["©"]: 0.5, -1: 0.5}, rel=1e-3)


@pytest.mark.parametrize("column", ["token_ids", "logprob_token_ids"])
def test_lists_of_ids_and_log_probs_may_differ_in_length_from_token_to_token(
    column: str, tiny_model: Path, store: StageStore, tmp_path: Path
) -> None:
    half = math.log(0.5)
    row = {**ROW, column: [[5, 7], [5], [9], [END, 3]], "logprobs": [[half, half], [-1e9], [half], [half, -9999.0]]}
    (found,) = targets(tiny_model, store, files(tmp_path, row))
    assert known(found, 0) == pytest.approx({5: 0.5, 7: 0.5, -1: 0.0}, abs=1e-3)
    # What is too unlikely to be told counts to the rest.
    assert known(found, 1) == {-1: 1.0}
    assert known(found, 3) == pytest.approx({END: 0.5, -1: 0.5}, abs=1e-3)


def test_rows_of_a_parquet_file_and_the_last_turn_of_a_chat(
    tiny_model: Path, store: StageStore, tmp_path: Path
) -> None:
    turns = [("user", "How?"), ("assistant", "So."), ("user", "And?"), ("assistant", "Yes")]
    chat = [{"role": role, "content": content} for role, content in turns]
    rows = [
        {"messages": chat, "logprobs": [[-1.0]] * 3, "token_ids": [[4]] * 3},
        {"messages": chat[:2], "logprobs": None, "token_ids": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    given = LessonFiles(files=(LessonFile(path=tmp_path / "a.parquet"),), supervise="all")
    first, last, other = targets(tiny_model, store, given)
    assert first is None and other is None
    assert known(last, 2) == pytest.approx({4: math.exp(-1), -1: 1 - math.exp(-1)}, rel=1e-3)


LISTS = {"token_ids": [[5], [5], [5]], "logprobs": [[-1.0], [-1.0], [-1.0]]}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (
            {"logprobs": [CONTENT[0], said("a", 0.5), CONTENT[2]]},
            "token 2 of the reply is 'a' in 'logprobs' and 'o' for",
        ),
        (
            {"logprobs": [said("So", 0.5), said(".", 0.5)]},
            "'logprobs' has 2 tokens, and the student's tokenizer makes 4",
        ),
        ({"logprobs": "[1"}, "'logprobs' is text and no JSON"),
        ({"logprobs": 3}, "'logprobs' is a int; give a list with one item for each token"),
        ({"logprobs": [{"token": "S"}] * 3}, "'logprob' is missing"),
        ({"logprobs": [-1.0, -1.0, -1.0]}, "'logprobs' has numbers without ids"),
        ({**LISTS, "token_ids": [[5, 6], [5], [5]]}, "'token_ids' and 'logprobs' differ in size"),
        (
            {**LISTS, "token_ids": [[258], [5], [5]]},
            "'token_ids' has the id 258 for a token; use the student's, 0 to 257",
        ),
        ({**LISTS, "completion_ids": [1, 2, 3]}, "'completion_ids' are not what the student makes of the reply"),
        ({**LISTS, "logprobs": [[0.5], [-1.0], [-1.0]]}, "'logprobs' has 0.5 for token 1; use numbers up to 0"),
        (
            {"token_ids": [[5, 6]] * 3, "logprobs": [[-0.1, -0.1]] * 3},
            "the probabilities of token 1 in 'logprobs' sum to 1.810; give natural logarithms",
        ),
    ],
)
def test_a_target_that_does_not_fit_names_the_file_and_the_line(
    wrong: dict[str, Any], complaint: str, tiny_model: Path, store: StageStore, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as raised:
        targets(tiny_model, store, files(tmp_path, ROW, {**ROW, **wrong}))
    assert str(raised.value).startswith(f"{tmp_path / 'a.jsonl'}:2: {complaint}")


def config(model: Path, *losses: Any) -> RunConfig:
    learn = TrainSettings(losses=losses, max_steps=1, batch_lessons=1)
    return RunConfig(student=StudentSettings(model=str(model)), train=learn)


def test_a_student_learns_from_the_distributions_of_a_lessons_file(tiny_model: Path, tmp_path: Path) -> None:
    with Local(name="teacher", model=str(tiny_model)).open() as teacher:
        told = Continuation("x", next(lessons_in(files(tmp_path, ROW)))[1].prompt.messages, "So.", ends=True)
        ((_, own),) = teacher.soft_targets([told], top=5)
    lists = {"token_ids": own.ids_NK.tolist(), "logprobs": own.logprobs_NK.tolist()}
    files(tmp_path, {**ROW, **lists})
    assert train(config(tiny_model, ForwardKL()), tmp_path / "a.jsonl", tmp_path / "out").is_dir()
    (file,) = (tmp_path / "out").glob("checkpoint-*/metrics/metrics.jsonl")
    first = json.loads(file.read_text().splitlines()[0])
    # Before the first step the student is the teacher; all four tokens count.
    assert first["losses"]["forward_kl"] == pytest.approx(0.0, abs=1e-4) and first["units"]["forward_kl"] == 4


def test_a_file_without_distributions_and_targets_that_nobody_learns_from_are_told(
    tiny_model: Path, tmp_path: Path
) -> None:
    files(tmp_path, ROW)
    with pytest.raises(InputError, match=r"loss 'forward_kl' needs a teacher's distribution, .* or --targets"):
        train(config(tiny_model, ForwardKL()), tmp_path / "a.jsonl", tmp_path / "out")
    with pytest.raises(InputError, match=r"captured: nothing learns from these; add a loss over distributions"):
        train(config(tiny_model, CrossEntropy()), tmp_path / "a.jsonl", tmp_path / "out", targets=tmp_path / "captured")


def test_distributions_of_replies_alone_or_of_other_tokens_are_not_learnt_from(
    tiny_model: Path, tmp_path: Path
) -> None:
    files(tmp_path, {**ROW, **LISTS})
    recipe = config(tiny_model, CrossEntropy(), ForwardKL())
    thinking = recipe.model_copy(update={"train": recipe.train.model_copy(update={"reasoning": "then_answer"})})
    with pytest.raises(InputError, match=r"train.reasoning is then_answer, and .* 'forward_kl' .*; use .*answer_only"):
        train(thinking, tmp_path / "a.jsonl", tmp_path / "out")
    with pytest.raises(InputError, match=r"loss 'cross_tokenizer' learns what a teacher of other tokens says"):
        train(config(tiny_model, CrossTokenizer()), tmp_path / "a.jsonl", tmp_path / "out")


COMPRESSION = {"d": 258, "k": 258, "exact_k": 258, "residual_bins": [], "delta_encoding": False}


def capture(folder: Path, *rows: tuple[list[int], torch.Tensor], **columns: str) -> Path:
    """A folder as DistillKit's sample_logits writes it: of each row the tokens, and what is said after each but the
    last."""
    folder.mkdir()
    YAML().dump(COMPRESSION, folder / "compression_config.yaml")
    names = ("input_ids", "compressed_logprobs", "bytepacked_indices")
    table: dict[str, list[Any]] = {columns.get(name, name): [] for name in names}
    for tokens, logprobs_NV in rows:
        values_NK, ids_NK = logprobs_NV.sort(descending=True)
        bits = [[f"{one:09b}" for one in row] for row in ids_NK.tolist()]
        packed = [np.packbits([int(bit) for one in row for bit in one]).tolist() for row in bits]
        for column, value in zip(table.values(), (tokens, values_NK.view(torch.uint8).tolist(), packed), strict=True):
            column.append(value)
    kinds = [pa.list_(pa.uint64()), *[pa.list_(pa.list_(pa.uint8()))] * 2]
    pq.write_table(pa.table(table, schema=pa.schema(list(zip(table, kinds, strict=True)))), folder / "data_0.parquet")
    return folder


CHAT = [
    {"role": "user", "content": "How?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Yes."},
]


def test_the_replies_of_a_captured_chat_have_what_was_said_before_each_of_their_tokens(
    tiny_model: Path, store: StageStore, tmp_path: Path
) -> None:
    given = files(tmp_path / "own", {"messages": CHAT}, {"prompt": "Else?", "completion": "No."}, supervise="all")
    with Local(name="teacher", model=str(tiny_model)).open() as teacher:
        whole = teacher.tokenizer.apply_chat_template(CHAT, tokenize=False)
        tokens = teacher.tokenizer.encode(whole, add_special_tokens=False)
        with torch.inference_mode():
            logprobs_TV = teacher.weights(torch.tensor([tokens])).logits[0].log_softmax(-1)
        wanted = [Continuation(one.id, one.prompt.messages, one.reply or "", one.ends) for _, one in lessons_in(given)]
        own = dict(teacher.soft_targets(wanted, top=258))
    noise = torch.randn(6, 258, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    folder = capture(tmp_path / "captured", ([2, 3, 4, 0, 5, 6, 7], noise), (tokens, logprobs_TV[:-1]))
    *found, other = targets(tiny_model, store, given, folder)
    assert other is None
    for one, target in zip(wanted, found, strict=False):
        assert target is not None
        expected_NV = torch.zeros(len(target.ids_NK), 258).scatter(1, own[one.id].ids_NK, own[one.id].logprobs_NK)
        found_NV = torch.zeros_like(expected_NV).scatter(1, target.ids_NK, target.logprobs_NK)
        torch.testing.assert_close(found_NV.exp(), expected_NV.exp(), rtol=5e-3, atol=1e-5)


def test_a_folder_that_fits_no_lesson_or_is_none_of_distillkits_says_so(
    tiny_model: Path, store: StageStore, tmp_path: Path
) -> None:
    given = files(tmp_path / "own", ROW)
    noise = torch.randn(3, 258).log_softmax(-1)
    foreign = capture(tmp_path / "foreign", ([2, 3, 4, 0], noise))
    older = capture(tmp_path / "older", ([2, 3, 4, 0], noise), compressed_logprobs="exact_values")
    with pytest.raises(InputError, match=r"foreign: none of its 1 rows has the tokens of a lesson; capture the same"):
        targets(tiny_model, store, given, foreign)
    with pytest.raises(InputError, match=r"older/data_0.parquet: there is no column compressed_logprobs; capture with"):
        targets(tiny_model, store, given, older)
    with pytest.raises(InputError, match=r"own/compression_config.yaml: there is no such file; name the folder that"):
        targets(tiny_model, store, given, tmp_path / "own")
    for text, complaint in (
        ("k: 4\nd: : 1\n", r"yaml:2: this is no YAML"),
        ("- k\n", r"yaml is a list, not `key: val"),
    ):
        (foreign / "compression_config.yaml").write_text(text)
        with pytest.raises(InputError, match=complaint):
            targets(tiny_model, store, given, foreign)
    (foreign / "compression_config.yaml").write_text("k: 4\nmystery: 1\n")
    with pytest.raises(InputError, match=r"compression_config.yaml: 'd' is missing.*'mystery' is unknown"):
        targets(tiny_model, store, given, foreign)


def test_captured_targets_that_stop_amid_a_reply_or_are_torn_name_the_row(
    tiny_model: Path, store: StageStore, tmp_path: Path
) -> None:
    given = files(tmp_path / "own", ROW)
    tokenizer = load_tokenizer(resolve(str(tiny_model)))
    ((_, lesson),) = lessons_in(given)
    tokens = prompt_ids(tokenizer, lesson.prompt.messages) + reply_ids(tokenizer, "So.", ends=True)
    short = capture(tmp_path / "short", (tokens, torch.randn(len(tokens) - 2, 258).log_softmax(-1)))
    with pytest.raises(InputError, match=r"data_0.parquet:1: 'compressed_logprobs' does not say as much of each token"):
        targets(tiny_model, store, given, short)
    content = bytearray((short / "data_0.parquet").read_bytes())
    (short / "data_0.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"data_0.parquet:1: damaged .*; capture it anew"):
        targets(tiny_model, store, given, short)
