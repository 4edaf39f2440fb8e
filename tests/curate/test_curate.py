"""Prompts gathered, near-duplicates joined into families, and split so that nothing like an exam prompt is taught."""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limbeck.attacks.multi_turn import MultiTurn
from limbeck.attacks.past_tense import PastTense
from limbeck.attacks.prefill import Prefill
from limbeck.attacks.role_play import RolePlay
from limbeck.curate import CurateSettings, curate, planned, split_counts
from limbeck.curate.dedupe import with_families
from limbeck.curate.reworded import Reworded
from limbeck.curate.sources import File, Files, read_prompts
from limbeck.curate.split import Shares, with_splits
from limbeck.errors import InputError
from limbeck.records import Prompt, asked
from limbeck.taxonomy import Split, Tier
from limbeck.workspace import StageStore


def prompt(text: str, family: str = "", tier: Tier = "safe", **more: Any) -> Prompt:
    return Prompt(messages=asked(text), family=family, tier=tier, **more)


def families(prompts: list[Prompt], tools: Any, alike: float = 0.9) -> list[str]:
    return [one.family for one in with_families(prompts, tools.encoder(), alike=alike)]


def test_prompts_without_a_family_each_get_one_of_their_own(tools: Any) -> None:
    assert len(set(families([prompt("bread"), prompt("rivers"), prompt("chess")], tools))) == 3


def test_a_prompt_and_its_twin_keep_the_family_they_share(tools: Any) -> None:
    assert families([prompt("kill a process", "f"), prompt("kill a man", "f"), prompt("chess")], tools)[:2] == [
        "f",
        "f",
    ]


def test_near_duplicates_share_a_family(alike: Callable[[dict[str, str]], Any]) -> None:
    tools = alike({"How to bake bread": "bake", "How do I bake bread": "bake"})
    first, second, third = families(
        [prompt("How to bake bread"), prompt("How do I bake bread"), prompt("chess")], tools
    )
    assert first == second != third


def test_near_duplicates_are_found_without_a_deprecated_call(alike: Callable[[dict[str, str]], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        families([prompt("a"), prompt("b")], alike({"a": "same", "b": "same"}))


def test_a_near_duplicate_joins_the_whole_families_of_both(alike: Callable[[dict[str, str]], Any]) -> None:
    tools = alike({"a": "same", "c": "same"})
    found = families(
        [prompt("a", "one"), prompt("b", "one"), prompt("c", "two"), prompt("d", "two"), prompt("e")], tools
    )
    assert len(set(found[:4])) == 1 and found[4] not in found[:4]


def test_a_chain_of_near_duplicates_is_one_family(alike: Callable[[dict[str, str]], Any]) -> None:
    prompts = [prompt(text, family) for text, family in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "2"), ("e", "3"))]
    tools = alike({"a": "x", "c": "x", "d": "y", "e": "y"})
    assert len(set(families(prompts, tools))) == 1


def test_the_same_question_with_other_choices_is_one_family(tools: Any) -> None:
    items = [prompt("Which?", choices=choices, answer=0) for choices in (("a", "b"), ("c", "d"))]
    assert len(set(families(items, tools))) == 1


def test_an_exact_repeat_is_left_out(tools: Any) -> None:
    assert len(with_families([prompt("bread"), prompt("bread"), prompt("chess")], tools.encoder(), alike=0.9)) == 2


def test_an_exact_repeat_in_another_family_joins_both_families(tools: Any) -> None:
    kept = [
        prompt("twin of one", "one"),
        prompt("asked twice", "one"),
        prompt("asked twice", "two"),
        prompt("twin of two", "two"),
    ]
    assert len(set(families(kept, tools))) == 1


def test_a_repeat_with_another_conduct_is_one_message_that_names_both_sources(tools: Any) -> None:
    contradicting = [
        prompt("bread", conduct="answer", source="mine.jsonl"),
        prompt("bread", conduct="refuse", source="other.jsonl"),
    ]
    with pytest.raises(InputError) as raised:
        with_families(contradicting, tools.encoder(), alike=0.9)
    assert str(raised.value).startswith(
        "'bread' stands in mine.jsonl with conduct answer and in other.jsonl with refuse; "
    )


def split_of(prompts: list[Prompt], seed: int = 1, **shares: float) -> dict[str, Split | None]:
    return {one.text: one.split for one in with_splits(prompts, Shares(**shares), seed=seed)}


MANY = [prompt(f"{n} {m}", f"family {n}") for n in range(100) for m in range(1 + n % 3)]


def test_no_family_is_in_two_splits() -> None:
    splits = defaultdict(set)
    for one in with_splits(MANY, Shares(), seed=1):
        splits[one.family].add(one.split)
    assert all(len(found) == 1 for found in splits.values())


def test_shares_are_shares_of_families() -> None:
    of_family = {one.family: one.split for one in with_splits(MANY, Shares(), seed=1)}
    assert Counter(of_family.values()) == {"train": 55, "probe": 15, "validation": 10, "exam": 20}


def test_every_harm_and_tier_is_split_by_the_same_shares() -> None:
    harmful = [prompt(f"h{n}", f"h{n}", "adversarial", harm="bias", conduct="refuse") for n in range(20)]
    found = split_of([*harmful, *(prompt(f"s{n}", f"s{n}") for n in range(20))])
    assert Counter(split for text, split in found.items() if text[0] == "h") == Counter(
        split for text, split in found.items() if text[0] == "s"
    )


def test_the_same_seed_gives_the_same_split_in_any_order_and_another_seed_another() -> None:
    assert split_of(MANY) == split_of(MANY[::-1])
    assert split_of(MANY) != split_of(MANY, seed=2)


def test_multiple_choice_items_only_measure() -> None:
    items = [prompt(f"Which {n}?", f"f{n}", choices=("a", "b"), answer=0) for n in range(32)]
    # A quarter to validation.
    assert Counter(split_of(items).values()) == {"validation": 8, "exam": 24}


def test_a_question_in_the_family_of_a_multiple_choice_item_only_measures() -> None:
    mixed = [
        p
        for n in range(9)
        for p in (prompt(f"Which {n}?", f"f{n}", choices=("a", "b"), answer=0), prompt(f"Why {n}?", f"f{n}"))
    ]
    assert set(split_of(mixed).values()) == {"validation", "exam"}


def test_a_family_with_a_given_split_goes_there_whole() -> None:
    found = split_of(
        [prompt("practice", "f", split="train"), prompt("like it", "f"), prompt("other", "g", split="exam")]
    )
    assert found == {"practice": "train", "like it": "train", "other": "exam"}


def test_a_multiple_choice_item_in_the_family_of_a_training_prompt_still_only_measures() -> None:
    item = prompt("Which?", "f", choices=("a", "b"), answer=0)
    assert split_of([prompt("practice", "f", split="train"), item])["Which?"] in ("validation", "exam", None)


def test_a_multiple_choice_item_like_a_training_prompt_still_only_measures(
    alike: Callable[[dict[str, str]], Any],
) -> None:
    both = [prompt("practice", split="train"), prompt("Which?", choices=("a", "b"), answer=0)]
    joined = with_families(both, alike({"practice": "same", "Which?": "same"}).encoder(), alike=0.9)
    assert split_of(joined)["Which?"] in ("validation", "exam")


def test_a_prompt_given_to_the_exam_is_never_trained_on() -> None:
    assert split_of([prompt("practice", "f", split="train"), prompt("exam", "f", split="exam")])["exam"] == "exam"


def file_of(folder: Path, *rows: dict[str, Any]) -> File:
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return File(path=folder / "prompts.jsonl")


def test_curate_gives_every_prompt_a_family_and_a_split(store: StageStore, tmp_path: Path) -> None:
    source = file_of(tmp_path, *({"prompt": f"Question {n}?"} for n in range(20)))
    found = list(curate(CurateSettings(sources=(source,)), store=store))
    assert len(found) == 20 and all(one.family and one.split and one.source == str(source.path) for one in found)


def test_a_near_duplicate_of_an_exam_prompt_is_never_in_training(
    store: StageStore, tmp_path: Path, alike: Callable[[dict[str, str]], Any]
) -> None:
    pairs = {f"Question {n}, again?": f"Question {n}?" for n in range(30)}
    source = file_of(tmp_path, *({"prompt": text} for text in (*pairs, *pairs.values())))
    found = curate(CurateSettings(sources=(source,)), store=replace(store, tools=alike(pairs)))
    of_text = {one.text: one.split for one in found}
    assert all(of_text[first] == of_text[second] for first, second in pairs.items())


def test_a_limit_keeps_the_first_families_whole(store: StageStore, tmp_path: Path) -> None:
    source = file_of(tmp_path, *({"prompt": f"{n} {m}?", "family": f"f{n}"} for n in range(5) for m in range(2)))
    found = list(curate(CurateSettings(sources=(source,), limit=2), store=store))
    assert sorted(one.text for one in found) == ["0 0?", "0 1?", "1 0?", "1 1?"]


def test_a_limit_keeps_a_family_whole_whose_prompts_stand_apart(store: StageStore, tmp_path: Path) -> None:
    rows = [
        {"prompt": "harmful?", "family": "f1"},
        {"prompt": "other?", "family": "f2"},
        {"prompt": "twin?", "family": "f1"},
    ]
    found = curate(CurateSettings(sources=(file_of(tmp_path, *rows),), limit=1), store=store)
    assert sorted(one.text for one in found) == ["harmful?", "twin?"]


def test_a_file_without_rows_is_one_message(store: StageStore, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"empty.jsonl: there are no rows; write at least one prompt"):
        list(read_prompts(Files(paths=(tmp_path / "empty.jsonl",)), store=store))


def test_prompt_files_to_measure_on_are_read_in_order_as_they_are(store: StageStore, tmp_path: Path) -> None:
    source = file_of(tmp_path, {"prompt": "b?"}, {"prompt": "a?"}, {"prompt": "b?"})
    found = list(read_prompts(Files(paths=(source.path, source.path)), store=store))
    assert [one.text for one in found] == ["b?", "a?", "b?"] * 2


def test_each_source_says_how_many_prompts_are_in_which_split() -> None:
    mine = [prompt(f"Mine {k}?", source="mine.jsonl", split="train" if k else "exam") for k in range(3)]
    starter = [
        prompt("One?", source="starter/bias", split="probe"),
        prompt("Two?", source="starter/more", split="train"),
    ]
    assert list(split_counts([*mine, *starter])) == [
        "prompts of mine.jsonl: train 2, probe 0, validation 0, exam 1",
        "prompts of starter: train 1, probe 1, validation 0, exam 0",
    ]


def test_a_harmful_prompt_and_its_twin_are_asked_in_the_same_other_way_and_only_where_they_teach_the_decision() -> None:
    ways = Reworded(share=0.5)
    pairs = [
        (
            prompt(f"How do I crack safe {number}?", f"f{number}", lesson="decision", split="train", conduct="refuse"),
            prompt(f"How do I crack nut {number}?", f"f{number}", lesson="decision", split="train"),
        )
        for number in range(60)
    ]
    changed = [tuple(ways(one, seed=1).made_by for one in pair) for pair in pairs]
    assert set(changed) == {("past_tense", "past_tense"), (None, None)}
    # Of 60 about half.
    assert 20 <= changed.count((None, None)) <= 40
    other = next(pair[0] for pair, made in zip(pairs, changed, strict=True) if made[0])
    assert ways(other, seed=1).text != other.text and ways(other, seed=1).family == other.family
    for kept in ({"split": "exam"}, {"lesson": "reply"}, {"language": "de"}):
        as_written = other.model_copy(update=kept)
        assert ways(as_written, seed=1) == as_written


def test_prompts_are_not_asked_by_what_begins_the_reply() -> None:
    assert Reworded(by=(RolePlay(), PastTense())).share == 0.15
    for attack in (Prefill(), MultiTurn()):
        with pytest.raises(ValueError, match="begins the reply or leaves turns to the model"):
            Reworded(by=(attack,))


def test_curating_rewords_the_practice_prompts_alone() -> None:
    planned_prompts = planned(CurateSettings(reworded=Reworded(share=0.2), limit=40), seed=1)
    made = [one for one in planned_prompts if one.made_by]
    assert made and {(one.split, one.lesson) for one in made} == {("train", "decision")}
    plain = planned(CurateSettings(limit=40), seed=1)
    assert len(plain) == len(planned_prompts) and not any(one.made_by for one in plain)
