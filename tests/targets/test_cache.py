"""Soft targets on disk read back as they were, and a damaged file says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from limbeck.errors import InputError
from limbeck.protocols import Spans, TopK
from limbeck.records import Contested, Disagreement
from limbeck.targets.cache import (
    SpanTargets,
    Targets,
    read_disagreements,
    write_disagreements,
    write_part,
    write_spans,
)


def target(length: int, top: int = 3) -> TopK:
    noise = torch.Generator().manual_seed(length)
    logprobs_NV = torch.randn(length, 300, generator=noise).log_softmax(-1)
    kept = logprobs_NV.topk(top, dim=-1)
    return TopK(kept.indices, kept.values, torch.log1p(-kept.values.exp().sum(-1)))


def test_targets_read_back_as_they_were_written(tmp_path: Path) -> None:
    written = {f"lesson{length}": target(length) for length in (1, 5, 2, 9, 3, 4, 7, 8, 6, 10)}
    write_part(tmp_path / "targets-a-00000.parquet", list(written.items())[:4])
    write_part(tmp_path / "targets-a-00001.parquet", list(written.items())[4:])
    found = Targets([tmp_path])
    assert set(found) == set(written) and len(found) == 10
    for name, one in written.items():
        assert torch.equal(found[name].ids_NK, one.ids_NK)
        # Log-probs are kept in half precision: 11 bits.
        torch.testing.assert_close(found[name].logprobs_NK, one.logprobs_NK, rtol=1e-3, atol=0)
        torch.testing.assert_close(found[name].tail_N, one.tail_N)


def test_targets_of_several_rounds_are_found_together(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_part(tmp_path / name / "targets-a-00000.parquet", [(name, target(2))])
    assert set(Targets([tmp_path / "first", tmp_path / "second"])) == {"first", "second"}
    assert set(Targets([])) == set()


def test_an_empty_tail_stays_empty(tmp_path: Path) -> None:
    even = TopK(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log(), torch.tensor([-torch.inf]))
    write_part(tmp_path / "targets-a-00000.parquet", [("even", even)])
    assert float(Targets([tmp_path])["even"].tail_N) == -torch.inf


def test_spans_read_back_as_they_were_written_and_beside_other_targets(tmp_path: Path) -> None:
    none = -torch.inf
    one = Spans(
        torch.tensor([True, False, True, True]),
        torch.tensor([True, False, True, False]),
        torch.tensor([[5, 7], [-1, -1], [300, -1], [-1, -1]]),
        torch.tensor([[-0.5, -2.0], [none, none], [-0.25, none], [none, none]]),
        torch.tensor([-1.5, none, none, none]),
        torch.tensor([[-3.0], [none], [none], [none]]),
        torch.tensor([-2.5, none, -1.25, none]),
    )
    plain = one._replace(odd_NU=one.odd_NU[:, :0])
    write_spans(tmp_path / "spans-0-00000.parquet", [("one", one), ("plain", plain)])
    write_part(tmp_path / "targets-0-00000.parquet", [("other", target(2))])
    found = SpanTargets([tmp_path])
    assert (set(found), set(Targets([tmp_path]))) == ({"one", "plain"}, {"other"})
    for name, written in (("one", one), ("plain", plain)):
        assert all(torch.equal(here, there) for here, there in zip(found[name], written, strict=True))


def test_a_lesson_without_a_target_is_not_there(tmp_path: Path) -> None:
    assert Targets([tmp_path]).get("nobody") is None


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_a_damaged_file_says_which_and_how_to_make_it_anew(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "targets-a-00000.parquet"
    write_part(file, [("one", target(200))])
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    file.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    with pytest.raises(InputError, match=r"targets-a-00000.parquet: damaged .*; delete"):
        Targets([tmp_path])["one"]


def test_disagreements_read_back_and_a_damaged_file_says_which(tmp_path: Path) -> None:
    token = Contested(position=0, token="\u2028 I", divergence=0.25)
    found = [
        Disagreement(lesson=name, teachers=("a", "b"), mean=0.125, tokens=2, largest=(token,)) for name in ("x", "y")
    ]
    write_disagreements(tmp_path / "targets-0-00000.parquet", found)
    assert list(read_disagreements([tmp_path])) == found
    file = tmp_path / "targets-0-00000.jsonl"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(InputError, match=r"targets-0-00000.jsonl: damaged .*; delete its folder"):
        list(read_disagreements([tmp_path]))
