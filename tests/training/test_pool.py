"""Lessons stay on disk, and their order hangs on the seed and on what they say."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from limbeck.records import Lesson, Prompt, asked
from limbeck.training.pool import Neighbours, Plan, Pool
from limbeck.workspace import Part, Rows

HARMFUL: dict[str, Any] = {"conduct": "refuse", "harm": "bias"}
FAMILIES = [
    Lesson(prompt=Prompt(messages=asked(f"Question {number}?"), family=f"family {number // 3}"), reply=f"{number}.")
    for number in range(24)
]


def by_hash(lessons: Sequence[Lesson], by: str) -> list[Lesson]:
    """The order of an epoch as it is defined: families by a hash, and the lessons of one by another."""

    def first_bytes(text: str) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def place(name: str) -> int:
        number = first_bytes(name) ^ first_bytes(by)
        number = (number ^ number >> 16) * 0x85EBCA6B % 2**32
        number = (number ^ number >> 13) * 0xC2B2AE35 % 2**32
        return number ^ number >> 16

    return sorted(lessons, key=lambda lesson: (place(lesson.prompt.family), place(lesson.id)))


def test_each_epoch_has_an_order_of_its_own_that_hangs_on_the_seed_alone() -> None:
    orders = [by_hash(FAMILIES, by) for by in ("1 0", "1 1", "2 0")]
    for lessons in (FAMILIES, FAMILIES[::-1]):
        pool = Pool.of(lessons)
        assert [list(pool.in_order(seed=seed, epoch=epoch)) for seed, epoch in ((1, 0), (1, 1), (2, 0))] == orders
    families = [lesson.prompt.family for lesson in orders[0]]
    assert sum(one != other for one, other in pairwise(families)) == 7


def test_the_steps_take_epoch_after_epoch_and_leave_none_out() -> None:
    plan = Plan(Pool.of(FAMILIES), batch=5, seed=1)
    # 24 lessons in steps of 5: the fifth step begins the second epoch.
    taken = [lesson for number in range(10) for lesson in plan.step(number)]
    assert taken == [*by_hash(FAMILIES, "1 0"), *by_hash(FAMILIES, "1 1"), *by_hash(FAMILIES, "1 2")[:2]]
    # A training that goes on takes the same.
    assert Plan(Pool.of(FAMILIES), batch=5, seed=1).step(4) == plan.step(4)


def test_what_is_left_of_a_pool_keeps_its_order() -> None:
    pool = Pool.of(FAMILIES)[::-1]
    assert list(pool.only(lesson.reply != "3." for lesson in pool)) == [*FAMILIES[:3:-1], *FAMILIES[2::-1]]


def test_lessons_without_a_family_are_compared_as_well() -> None:
    due = [Lesson(prompt=Prompt(messages=asked(f"Mock {name}"), **HARMFUL), reply=f"No, {name}.") for name in "AB"]
    fine = [Lesson(prompt=Prompt(messages=asked(f"Boil {name}")), reply=f"So, {name}.") for name in "CD"]
    neighbours = Neighbours(Pool.of([*due, *fine]))
    assert [one.id for one in neighbours.beside(due[0])][:1] == [due[1].id]
    assert len(neighbours.beside(due[0])) == len(neighbours.beside(fine[0])) == 2
    assert neighbours.foreign(due[0]) in [due[1], *fine]


def test_a_lesson_is_compared_with_one_alike_its_twin_and_one_more_that_is_not() -> None:
    def lesson(text: str, family: str, **more: Any) -> Lesson:
        return Lesson(prompt=Prompt(messages=asked(text), family=family, **more), reply=text)

    harmful, other = lesson("harm", "a", **HARMFUL), lesson("other harm", "b", **HARMFUL)
    twin, harmless = lesson("twin", "a"), lesson("harmless", "c")
    near = Neighbours(Pool.of([harmless, harmful, twin, other]))
    assert near.beside(harmful) == [other, twin, harmless]
    assert near.beside(other)[0] == harmful and len(near.beside(other)) == 2
    assert near.foreign(harmful) in (other, harmless)
    assert Neighbours(Pool.of([harmful, twin])).beside(harmful) == []


def test_a_pool_of_lessons_on_disk_is_thirty_bytes_a_lesson(tmp_path: Path) -> None:
    line = FAMILIES[0].line()
    (tmp_path / "rows-00000.jsonl").write_text(f"{line}\n" * 20_000)
    rows = Rows("key", [Part(tmp_path, Lesson, lambda row: True)])
    tracemalloc.start()
    try:
        pool = Pool.of(rows).in_order(seed=1, epoch=0)
        assert pool[19_999] == FAMILIES[0]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / 20_000 < 32


def test_prompts_without_replies_have_neighbours_too() -> None:
    silent = [
        Lesson(
            prompt=Prompt(
                messages=asked(f"What of {number}?"),
                family=f"f{number}",
                **({"harm": "bias", "tier": "adversarial", "conduct": "refuse"} if number % 2 else {"harm": "bias"}),
            ),
            reply=None,
        )
        for number in range(8)
    ]
    neighbours = Neighbours(Pool.of(silent))
    assert all(len(neighbours.beside(lesson)) >= 2 for lesson in silent)
    assert neighbours.foreign(silent[0]) is None
