"""The rows of results.json and the page that is made of them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SAME_GROWTH = "batch=8 vocabulary=49152 cached=0"
COLUMNS = ["work", "contender", "setting", "seconds", "supervised_tokens_per_s", "extra_mb", "peak_mb"]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/table.py, which is no part of the package."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("table")


def head_row(table: ModuleType, contender: str, words: str, seconds: float | None, extra_mb: float | None) -> object:
    setting = f"rows=1024 beta=0.5 head=frozen dtype=float32 {words}"
    return table.Row("head", contender, setting, seconds, None, extra_mb, None, 2e-6)


def step_setting(teacher: str) -> str:
    return f"batch=8 steps=2 tokens=1000 supervised=500 beta=0.5 teacher={teacher} dtype=float32"


def test_rows_are_read_as_they_were_written(table: ModuleType, tmp_path: Path) -> None:
    rows = [head_row(table, "ours", "teacher=live", 1.5, 20.0), head_row(table, "plain", "teacher=live", None, None)]
    table.save(tmp_path / "results.json", rows)
    assert table.load(tmp_path / "results.json") == rows
    assert list(json.loads((tmp_path / "results.json").read_text())[0]) == [*COLUMNS, "relative_error"]


def test_a_peer_shows_its_fastest_chunk_and_its_least_memory(table: ModuleType) -> None:
    rows = [
        head_row(table, "liger", "teacher=live chunk=1024", 3.25, 900.0),
        head_row(table, "liger", "teacher=live chunk=64", 4.5, 300.0),
    ]
    (line,) = [line for line in table.page(rows).splitlines() if "| Liger, live teacher |" in line]
    assert "| 1024 | 3.250 | not measured | 300 | 2e-06 |" in line


def test_a_live_frozen_head_needs_three_products_at_least(table: ModuleType) -> None:
    # 2 * 1024 * 49152 * 576 FLOP a product, three of them in 1.74 s are 100 GFLOP/s; the peaks are 2 * 1000^3
    # in 0.02 and in 0.01 s.
    peaks = [
        table.Row("matmul", contender, "dtype=float32 M=1000 K=1000 N=1000", seconds, None, None, None, None)
        for contender, seconds in (("plain", 0.02), ("ours", 0.01))
    ]
    page = table.page([*peaks, head_row(table, "ours", "teacher=live", 1.74, 20.0)])
    assert "| float32 | 100 | 200 |" in page
    assert "| head: seconds, of the floor at the peak of torch.mm | 1.00 | 1.2 at most |" in page
    assert "| head: seconds, of the floor at the peak of the fastest product | 2.00 | 1.2 at most |" in page
    assert "| Limbeck, live teacher |  | 1.740 | 50% | 20 | 2e-06 |" in page


def test_plain_torch_and_more_lessons_are_held_against_what_is_wanted(table: ModuleType) -> None:
    grown = [
        table.Row("growth", "ours", f"lessons={lessons} reply={reply} {SAME_GROWTH}", 1.0, tokens, None, peak, None)
        for lessons, reply, tokens, peak in ((10_000, 64, 60.0, 500.0), (100, 64, 80.0, 400.0), (400, 256, 9.0, 9e3))
    ]
    heads = [head_row(table, name, "teacher=live", s, 20.0) for name, s in (("ours", 2.0), ("plain", 1.5))]
    page = table.page([*grown, *heads])
    assert "| growth: peak memory, of those at the fewest lessons | 1.25 | 0.9 to 1.1 |" in page
    assert "| growth: tokens/s, of those at the fewest lessons | 0.75 | 0.9 at least |" in page
    assert "| head: seconds of plain torch's, of ours | 0.75 | above 1 |" in page


def test_what_was_asked_is_shown_with_its_batch_and_how_far_it_is_from_the_reference(table: ModuleType) -> None:
    scored = table.Row(
        "scoring", "lm_eval", "prompts=9 tokens=288 dtype=float32 batch=8", 2.0, 144.0, None, 900.0, 1e-5
    )
    replied = table.Row("generation", "ours", "prompts=9 reply=48 dtype=bfloat16", 1.0, 432.0, None, None, 0.25)
    page = table.page([scored, replied])
    assert "| lm-evaluation-harness | float32 | 8 | 2.0 | 144 | 900 | 1e-05 |" in page
    assert "| Limbeck | bfloat16 | its own | 1.0 | 432 | not measured | 0.25 |" in page


def test_what_did_not_finish_is_not_measured(table: ModuleType) -> None:
    row = table.Row("step", "trl", step_setting("live"), *[None] * 5)
    assert "| TRL | live | float32 | not measured | not measured |" in table.page([row])


def test_a_live_teacher_makes_the_least_work_of_a_step_half_as_much_again(table: ModuleType) -> None:
    # Forward and back, 2 FLOP each: 1,000 tokens in 106,168,320 weights, 500 in the head's 28,311,552; over two steps.
    cached, live = (table.step_flops(table.parsed(step_setting(teacher))) for teacher in ("cached", "live"))
    assert cached == 2 * 2 * (1_000 * 106_168_320 + 500 * 28_311_552) / 2
    assert live == 1.5 * cached


def test_the_page_in_the_docs_is_that_of_the_results(table: ModuleType) -> None:
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page == table.page(table.load(FOLDER / "results.json"))
