"""What was made is kept under a hash of all it was made from, and is never made twice."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.protocols import Store
from limbeck.records import Checkpoint, Lesson, Prompt, asked
from limbeck.spec import Spec
from limbeck.workspace import Kept, Reached, Rows, Workspace, read_rows

calls: list[str] = []


class Words(Spec):
    """Which prompts are made."""

    words: tuple[str, ...] = ("one", "two", "three")
    version: int = 1


class Named(Spec):
    """Settings with a file in them."""

    path: Path


def make(settings: Words, *, store: Store) -> Iterator[Prompt]:
    calls.append("make")
    for word in settings.words:
        yield Prompt(messages=asked(word), split="train" if word == "one" else "exam")


def learn(settings: Spec, prompts: Sequence[Prompt], *, store: Store) -> Iterator[Lesson]:
    calls.append("learn")
    for prompt in prompts:
        yield Lesson(prompt=prompt, reply=prompt.text.upper())


def train(settings: Spec, lessons: Sequence[Lesson], before: Checkpoint | None, *, store: Store) -> Checkpoint:
    calls.append("train")
    folder = store.folder("adapter")
    (folder / "weights").write_text("".join(lesson.reply or "" for lesson in lessons))
    return Checkpoint(name="s", folder=folder, base="b", base_hash="h", lessons=1, steps=1, round=0, key=store.key)


def page(settings: Spec, checkpoint: Checkpoint, *, store: Store) -> Path:
    calls.append("page")
    (store.folder(".") / "report.html").write_text((checkpoint.folder / "weights").read_text())
    return store.folder(".")


def slowly(settings: Words, *, store: Store) -> Iterator[Prompt]:
    """Keeps each word as it comes and dies at the word 'die' the first time."""
    for word in settings.words:
        if store.get(word) is None:
            calls.append(word)
            if word == "die" and calls.count("die") == 1:
                raise KeyboardInterrupt
            store.put({word: word})
        yield Prompt(messages=asked(store.get(word) or ""))


def pass_on(settings: Named, *, store: Store) -> Iterator[Prompt]:
    calls.append("pass_on")
    yield Prompt(messages=asked(settings.path.read_text()))


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    calls.clear()


def run(
    folder: Path,
    tools: Any,
    *,
    words: Words | None = None,
    learning: Spec | None = None,
    seed: int = 0,
    until: str | None = None,
    only: str | None = None,
) -> Path:
    """A small pipeline: prompts, lessons of the training split, a checkpoint, a page."""
    work = Workspace(folder, seed=seed, tools=tools, until=until, only=only)
    with work.open():
        prompts = work.keep("prompts", make, words or Words())
        at = work.round(0)
        lessons = at.keep("lessons", learn, learning or Words(), prompts.where(split="train"))
        checkpoint = at.keep("checkpoint", train, Words(), lessons, None)
        made: Path = work.keep("page", page, Words(), checkpoint)
        work.publish({file.name: file for file in made.iterdir() if file.suffix == ".html"})
    return folder / "report.html"


def test_a_second_run_calls_nothing(tmp_path: Path, tools: Any) -> None:
    assert run(tmp_path, tools).read_text() == "ONE"
    assert calls == ["make", "learn", "train", "page"]
    calls.clear()
    assert run(tmp_path, tools).read_text() == "ONE"
    assert calls == []


def test_where_only_one_stage_may_be_made_anew_another_is_refused_and_nothing_is_written(
    tmp_path: Path, tools: Any
) -> None:
    run(tmp_path, tools)
    shutil.rmtree(next(tmp_path.glob("page-*")))
    assert run(tmp_path, tools, only="page").read_text() == "ONE"
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(
        InputError, match="lessons would be made anew, for another version of Limbeck or another recipe"
    ):
        run(tmp_path, tools, learning=Words(version=2), only="page")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert calls == ["make", "learn", "train", "page", "page"]


def test_a_run_stopped_after_a_stage_gives_its_rows_and_a_later_run_goes_on_from_it(tmp_path: Path, tools: Any) -> None:
    for _ in range(2):
        with pytest.raises(Reached) as reached:
            run(tmp_path, tools, until="lessons")
        assert calls == ["make", "learn"]
    assert [lesson.reply for lesson in reached.value.rows] == ["ONE"]
    assert reached.value.folder == next(tmp_path.glob("round-0/lessons-*"))
    run(tmp_path, tools)
    assert calls == ["make", "learn", "train", "page"]


def test_a_changed_setting_redoes_its_stage_and_what_follows(tmp_path: Path, tools: Any) -> None:
    run(tmp_path, tools)
    calls.clear()
    run(tmp_path, tools, learning=Words(version=2))
    assert calls == ["learn", "train", "page"]
    calls.clear()
    run(tmp_path, tools, words=Words(version=2))
    assert calls == ["make", "learn", "train", "page"]


def test_a_setting_put_back_finds_what_was_made_with_it(tmp_path: Path, tools: Any) -> None:
    run(tmp_path, tools)
    run(tmp_path, tools, learning=Words(version=2))
    calls.clear()
    run(tmp_path, tools)
    assert calls == []


def test_another_seed_makes_everything_anew(tmp_path: Path, tools: Any) -> None:
    run(tmp_path, tools)
    calls.clear()
    run(tmp_path, tools, seed=1)
    assert calls == ["make", "learn", "train", "page"]


def test_a_file_that_a_setting_names_counts_with_its_content(tmp_path: Path, tools: Any) -> None:
    named = tmp_path / "text.txt"
    work = Workspace(tmp_path / "run", seed=0, tools=tools)
    for text in ("first", "first", "second"):
        named.write_text(text)
        with work.open():
            assert [prompt.text for prompt in work.keep("passed", pass_on, Named(path=named))] == [text]
    assert calls == ["pass_on", "pass_on"]


def test_a_stage_that_died_goes_on_with_what_it_kept(tmp_path: Path, tools: Any) -> None:
    words = Words(words=("one", "two", "die", "four"))
    with pytest.raises(KeyboardInterrupt), (work := Workspace(tmp_path, seed=0, tools=tools)).open():
        work.keep("slow", slowly, words)
    again = Workspace(tmp_path, seed=0, tools=tools)
    with again.open():
        assert [prompt.text for prompt in again.keep("slow", slowly, words)] == ["one", "two", "die", "four"]
    assert calls == ["one", "two", "die", "die", "four"]


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept.jsonl")
    kept.put({"a": "first line"})
    kept.put({"b": "ünïcode and  two spaces"})
    again = Kept(tmp_path / "kept.jsonl")
    assert [again.get(key) for key in ("a", "b", "c")] == ["first line", "ünïcode and  two spaces", None]


def test_a_torn_last_line_of_what_was_kept_is_dropped_and_can_be_put_again(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    file.write_bytes(b"a whole\nb torn in the mid")
    kept = Kept(file)
    assert (kept.get("a"), kept.get("b")) == ("whole", None)
    kept.put({"b": "whole again"})
    assert file.read_bytes() == b"a whole\nb whole again\n"
    assert Kept(file).get("b") == "whole again"


def test_a_torn_row_names_its_file_and_line_and_what_to_delete(tmp_path: Path, tools: Any) -> None:
    work = Workspace(tmp_path, seed=0, tools=tools)
    with work.open():
        prompts = work.keep("prompts", make, Words())
    (file,) = tmp_path.glob("prompts-*/rows-00000.jsonl")
    first, second, third = file.read_text().splitlines(keepends=True)
    file.write_text(first + second[:40] + "\n" + third)
    with pytest.raises(
        InputError, match=r"rows-00000.jsonl:2: this is no whole Prompt row; delete the folder .*prompts-"
    ):
        list(prompts)


def test_a_row_of_another_noun_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "rows-00000.jsonl").write_text('{"id": "1", "of": "a", "judge": "j", "version": "1"}\n')
    with pytest.raises(InputError, match="no whole Prompt row"):
        list(read_rows(tmp_path / "rows-00000.jsonl", Prompt))


def test_two_runs_in_one_folder_are_one_message(tmp_path: Path, tools: Any) -> None:
    with (
        Workspace(tmp_path, seed=0, tools=tools).open(),
        pytest.raises(InputError, match="another run is using this folder; wait for it or choose --folder"),
        Workspace(tmp_path, seed=0, tools=tools).open(),
    ):
        pass
    with Workspace(tmp_path, seed=0, tools=tools).open():
        pass


def test_a_folder_with_other_things_in_it_is_left_as_it_is(tmp_path: Path, tools: Any) -> None:
    (tmp_path / "README.md").write_text("mine")
    with (
        pytest.raises(InputError, match="this is no run folder and not empty"),
        Workspace(tmp_path, seed=0, tools=tools).open(),
    ):
        pass
    assert [one.name for one in tmp_path.iterdir() if one.name != ".lock"] == ["README.md"]


@pytest.mark.parametrize("theirs", ["[1]", '{"name": "a page"}', "torn"])
def test_a_manifest_that_is_not_of_a_run_is_left_as_it_is(tmp_path: Path, tools: Any, theirs: str) -> None:
    (tmp_path / "manifest.json").write_text(theirs)
    with (
        pytest.raises(InputError, match="this is no run folder and not empty"),
        Workspace(tmp_path, seed=0, tools=tools).open(),
    ):
        pass
    assert (tmp_path / "manifest.json").read_text() == theirs


def test_a_folder_belongs_to_the_verb_that_made_it(tmp_path: Path, tools: Any) -> None:
    run(tmp_path, tools)
    before = (tmp_path / "manifest.json").read_text()
    with (
        pytest.raises(InputError, match="this folder holds what limbeck run made; name another folder"),
        Workspace(tmp_path, seed=0, tools=tools, verb="train").open(),
    ):
        pass
    assert (tmp_path / "manifest.json").read_text() == before


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path, tools: Any) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"cannot write here .*; name another folder"),
        Workspace(tmp_path / "file" / "run", seed=0, tools=tools).open(),
    ):
        pass


def test_a_moved_run_folder_reads_its_checkpoint_where_it_is_now(tmp_path: Path, tools: Any) -> None:
    run(tmp_path / "here", tools)
    (tmp_path / "here").rename(tmp_path / "there")
    calls.clear()
    work = Workspace(tmp_path / "there", seed=0, tools=tools)
    with work.open():
        prompts = work.keep("prompts", make, Words())
        at = work.round(0)
        lessons = at.keep("lessons", learn, Words(), prompts.where(split="train"))
        checkpoint = at.keep("checkpoint", train, Words(), lessons, None)
    assert calls == []
    assert (checkpoint.folder / "weights").read_text() == "ONE"
    assert checkpoint.folder.is_relative_to(tmp_path / "there")


def test_a_moved_run_folder_makes_nothing_anew(tmp_path: Path, tools: Any) -> None:
    run(tmp_path / "here", tools)
    (tmp_path / "here").rename(tmp_path / "there")
    calls.clear()
    assert run(tmp_path / "there", tools).read_text() == "ONE"
    assert calls == []


def test_rows_of_a_field_are_chosen_without_reading_them_and_have_a_key_of_their_own(
    tmp_path: Path, tools: Any
) -> None:
    work = Workspace(tmp_path, seed=0, tools=tools)
    with work.open():
        prompts = work.keep("prompts", make, Words())
    train_split, exam = prompts.where(split="train"), prompts.where(split="exam")
    assert [one.text for one in train_split] == ["one"]
    assert [one.text for one in exam] == ["two", "three"]
    assert len({prompts.key, train_split.key, exam.key, (train_split + exam).key, (exam + train_split).key}) == 5
    assert [one.text for one in exam + train_split] == ["two", "three", "one"]
    assert (len(exam + train_split), (exam + train_split)[2].text, exam[0].text) == (3, "one", "two")
    assert [one.text for one in (exam + train_split).where(language="en", split="train")] == ["one"]


def test_a_stage_without_a_row_is_kept_as_empty(tmp_path: Path, tools: Any) -> None:
    for _ in range(2):
        work = Workspace(tmp_path, seed=0, tools=tools)
        with work.open():
            assert list(work.keep("prompts", make, Words(words=()))) == []
    assert calls == ["make"]


def test_rows_past_a_shard_are_read_in_order(tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.workspace.SHARD_ROWS", 2)
    work = Workspace(tmp_path, seed=0, tools=tools)
    with work.open():
        prompts: Rows[Prompt] = work.keep("prompts", make, Words(words=tuple("abcde")))
    assert len(list(tmp_path.glob("prompts-*/rows-*.jsonl"))) == 3
    assert [one.text for one in prompts] == list("abcde")
    assert (len(prompts), prompts[1].text, prompts[4].text, prompts[-2].text) == (5, "b", "e", "d")
    assert [one.text for one in prompts[1:4]] == list("bcd")


def test_the_manifest_lists_the_stages_of_the_last_run_alone(tmp_path: Path, tools: Any) -> None:
    run(tmp_path, tools)
    run(tmp_path, tools, learning=Words(version=2))
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert (written["schema"], written["seed"]) == (1, 0)
    assert [stage["stage"] for stage in written["stages"].values()] == ["prompts", "lessons", "checkpoint", "page"]
    assert all((tmp_path / place / "done.json").is_file() for place in written["stages"])


def test_the_manifest_tells_of_the_results_beside_it_until_others_take_their_place(tmp_path: Path, tools: Any) -> None:
    def told() -> list[str]:
        return list(json.loads((tmp_path / "manifest.json").read_text())["stages"])

    with pytest.raises(Reached):
        run(tmp_path, tools, until="lessons")
    assert len(told()) == 2
    run(tmp_path, tools)
    finished = told()
    with pytest.raises(Reached):
        run(tmp_path, tools, learning=Words(version=2), until="checkpoint")
    assert (told(), (tmp_path / "report.html").is_file()) == (finished, True)
    run(tmp_path, tools, learning=Words(version=2))
    assert len(told()) == 4 and told() != finished


def test_a_link_at_the_top_shows_the_last_result(tmp_path: Path, tools: Any) -> None:
    work = Workspace(tmp_path, seed=0, tools=tools)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter").write_text(name)
        work.publish({"student": tmp_path / name})
        assert (tmp_path / "student" / "adapter").read_text() == name
    assert not os.path.isabs(os.readlink(tmp_path / "student"))


FULL = """
import resource, signal, sys
from pathlib import Path
from limbeck.workspace import Kept
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kept = Kept(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    for number in range(9):
        kept.put({f"key{number}": "x" * 30})
except OSError:
    sys.exit(0 if kept.get("key0") == "x" * 30 and kept.get("key3") is None else 1)
sys.exit(1)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_full_disk_leaves_what_was_kept_readable_and_the_next_run_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    # A limit of 100 bytes a file stands for the full disk: rows of 36 bytes, so the third is torn.
    subprocess.run([sys.executable, "-c", FULL, str(file)], check=True, timeout=60)
    kept = Kept(file)
    assert [kept.get(f"key{number}") for number in range(3)] == ["x" * 30, "x" * 30, None]
    kept.put({"key2": "y" * 30})
    assert Kept(file).get("key2") == "y" * 30


def test_a_write_that_fails_half_way_is_overwritten_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    kept = Kept(file)
    kept.put({"a": "one"})
    with file.open("ab") as stream:  # what a failed write leaves
        stream.write(b"b tor")
    kept.put({"c": "three"})
    assert file.read_bytes() == b"a one\nc three\n"
    assert kept.get("c") == "three"
