"""Soft targets on disk read back as they were, and a damaged file says so."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from limbeck.errors import InputError
from limbeck.protocols import Drawn, Spans, TopK
from limbeck.records import Contested, Disagreement, TargetSet
from limbeck.targets.cache import (
    Cached,
    SpanTargets,
    Targets,
    read_disagreements,
    write_disagreements,
    write_part,
    write_spans,
)
from limbeck.targets.ragged import rectangle


def target(length: int, top: int = 3) -> TopK:
    noise = torch.Generator().manual_seed(length)
    return likeliest(torch.randn(length, 300, generator=noise), top)


def likeliest(logits_NV: torch.Tensor, top: int) -> TopK:
    kept = logits_NV.log_softmax(-1).topk(top, dim=-1)
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
        torch.testing.assert_close(found[name].logprobs_NK, one.logprobs_NK, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found[name].tail_N, one.tail_N)
        # And take all of what the tail leaves.
        mass_N = found[name].logprobs_NK.exp().sum(-1) + one.tail_N.exp()
        torch.testing.assert_close(mass_N, torch.ones_like(mass_N))


def test_drawn_ids_read_back_with_their_weights_as_they_are(tmp_path: Path) -> None:
    # Weights of 1/2, 1/4 and, of the second token, 1/8: they need not sum to 1, and are powers of two times log 2.
    said = Drawn(torch.tensor([2, 1]), torch.tensor([7, 3, 5]), -math.log(2) * torch.tensor([1.0, 2.0, 3.0]))
    write_part(tmp_path / "targets-a-00000.parquet", [("one", said)])
    found = Targets([tmp_path])["one"]
    assert found.ids_NK.tolist() == [[7, 3], [5, 0]]
    torch.testing.assert_close(found.logprobs_NK.exp(), torch.tensor([[0.5, 0.25], [0.125, 0.0]]), rtol=1e-3, atol=0)
    assert found.tail_N.tolist() == [-math.inf, -math.inf]


def test_places_that_are_only_filled_take_no_room(tmp_path: Path) -> None:
    sizes_N = torch.tensor([3, 0, 1])
    ragged = rectangle(sizes_N, torch.tensor([4, 5, 6, 0]), torch.full((4,), -2.0), torch.zeros(3), width=3)
    known = ragged._replace(tail_N=torch.log1p(-ragged.logprobs_NK.exp().sum(-1)))
    write_part(tmp_path / "targets-a-00000.parquet", [("one", known), ("two", target(5))])
    on_disk = pq.read_table(tmp_path / "targets-a-00000.parquet").to_pylist()[0]
    assert (on_disk["sizes"], on_disk["ids"], len(on_disk["logprobs"])) == ([3, 0, 1], [4, 5, 6, 0], 4)
    found = Targets([tmp_path])["one"]
    assert torch.equal(found.ids_NK, known.ids_NK)
    torch.testing.assert_close(found.logprobs_NK, known.logprobs_NK, rtol=1e-3, atol=1e-3)


def test_a_file_of_likeliest_ids_takes_little_more_than_half_of_their_raw_bytes(tmp_path: Path) -> None:
    # As many ids as SmolLM2 has, as frequent as words are (Zipf), each by its context likelier or less likely.
    lessons, tokens, ids, vocabulary = 64, 16, 32, 49_152
    zipf_V = -torch.arange(1.0, vocabulary + 1).log()
    noise = torch.Generator().manual_seed(0)
    drawn = (zipf_V + 2 * torch.randn(tokens, vocabulary, generator=noise) for _ in range(lessons))
    targets = [(f"{number:016x}", likeliest(logits_NV, ids)) for number, logits_NV in enumerate(drawn)]
    write_part(tmp_path / "targets-a-00000.parquet", targets)
    # Raw are 4 bytes of an id and 4 of its log-prob.
    raw = 8 * lessons * tokens * ids
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 0.55 * raw


@pytest.mark.parametrize("tokens", [1, 100])
def test_an_open_cache_holds_twenty_bytes_of_a_lesson_however_long_it_is_and_whatever_was_read(
    tmp_path: Path, tokens: int
) -> None:
    for part in range(3):
        named = [(f"{number:016x}", target(tokens)) for number in range(20 * part, 20 * part + 20)]
        write_part(Targets.part(tmp_path, number=part), named)
    found = Targets([tmp_path])
    assert sum(one.nbytes for one in vars(found).values() if isinstance(one, np.ndarray)) == 20 * 60
    opened = len(pickle.dumps(found))
    assert all(len(found[lesson].tail_N) == tokens for lesson in found)
    assert len(pickle.dumps(found)) == opened < 20 * 60 + 2000


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


NONE = -torch.inf
SPANS = Spans(
    torch.tensor([True, False, True, True]),
    torch.tensor([True, False, True, False]),
    torch.tensor([[5, 7], [-1, -1], [300, -1], [-1, -1]]),
    torch.tensor([[-0.5, -2.0], [NONE, NONE], [-0.25, NONE], [NONE, NONE]]),
    torch.tensor([-1.5, NONE, NONE, NONE]),
    torch.tensor([[-3.0], [NONE], [NONE], [NONE]]),
    torch.tensor([-2.5, NONE, -1.25, NONE]),
)


def test_spans_read_back_as_they_were_written_and_beside_other_targets(tmp_path: Path) -> None:
    plain = SPANS._replace(odd_NU=SPANS.odd_NU[:, :0])
    write_spans(tmp_path / "spans-0-00000.parquet", [("one", SPANS), ("plain", plain)])
    write_part(tmp_path / "targets-0-00000.parquet", [("other", target(2))])
    found = SpanTargets([tmp_path])
    assert (set(found), set(Targets([tmp_path]))) == ({"one", "plain"}, {"other"})
    for name, written in (("one", SPANS), ("plain", plain)):
        assert all(torch.equal(here, there) for here, there in zip(found[name], written, strict=True))


def test_a_lesson_without_a_target_is_not_there(tmp_path: Path) -> None:
    assert Targets([tmp_path]).get("nobody") is None


@pytest.fixture(params=[Targets, SpanTargets])
def form(request: pytest.FixtureRequest) -> type[Cached[Any]]:
    chosen: type[Cached[Any]] = request.param
    return chosen


@pytest.fixture
def written(tmp_path: Path, form: type[Cached[Any]]) -> Path:
    """A file of this form in the folder of a stage."""
    file = tmp_path / f"{form.name}-1f0c" / "targets" / f"{form.name}-a-00000.parquet"
    file.parent.mkdir(parents=True)
    if form is Targets:
        write_part(file, [(f"lesson{number}", target(40)) for number in range(20)])
    else:
        write_spans(file, [(f"lesson{number}", SPANS) for number in range(20)])
    return file


def test_every_column_is_compressed_and_the_bytes_of_ids_are_split(written: Path) -> None:
    groups = pq.ParquetFile(written).metadata.to_dict()["row_groups"]
    assert [group["num_rows"] for group in groups] == [8, 8, 4]
    columns = [column for group in groups for column in group["columns"]]
    assert {column["compression"] for column in columns} == {"ZSTD"}
    split = {column["path_in_schema"] for column in columns if "BYTE_STREAM_SPLIT" in column["encodings"]}
    assert split == {"ids.list.element"}


def complaint(form: type[Cached[Any]], file: Path) -> str:
    with pytest.raises(InputError) as raised:
        form([file.parent])
    return str(raised.value)


def test_one_flipped_bit_anywhere_in_a_file_says_which_and_how_to_make_it_anew(
    form: type[Cached[Any]], written: Path
) -> None:
    content = written.read_bytes()
    # Over pages, their headers, and the footer, whose own bytes no page checksum covers.
    for at in sorted({*range(0, len(content), max(1, len(content) // 60)), *range(len(content) - 40, len(content))}):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        written.write_bytes(flipped)
        assert complaint(form, written) == (
            f"{written}: damaged (its content is not what {written.stem}.sha256 says); delete the folder "
            f"{written.parent.parent} and run again: its targets are made anew"
        )
    written.write_bytes(content)
    assert len(form([written.parent])) == 20


def test_a_torn_empty_or_lost_file_says_which(form: type[Cached[Any]], written: Path) -> None:
    content = written.read_bytes()
    for size in (0, 3, len(content) // 2, len(content) - 1):
        written.write_bytes(content[:size])
        assert complaint(form, written).startswith(f"{written}: damaged (its content is not what")
    written.unlink()
    assert complaint(form, written).startswith(f"{written}: damaged (")
    written.write_bytes(content)
    written.with_suffix(".sha256").unlink()
    assert complaint(form, written).startswith(f"{written}: damaged (")


def test_a_byte_that_flips_after_the_file_was_opened_is_told_when_it_is_read(
    form: type[Cached[Any]], written: Path
) -> None:
    opened = form([written.parent])
    content = bytearray(written.read_bytes())
    meta = pq.ParquetFile(written).metadata.row_group(0)
    # In the middle of the pages with the log-probs of the first lessons.
    column = next(meta.column(at) for at in range(meta.num_columns) if "logprobs" in meta.column(at).path_in_schema)
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    written.write_bytes(content)
    with pytest.raises(InputError, match=rf"{written.name}: damaged .*; delete the folder"):
        opened["lesson0"]
    assert len(opened["lesson19"].tail_N) == (40 if form is Targets else 4)


def test_a_set_that_lost_a_whole_file_says_so(form: type[Cached[Any]], written: Path) -> None:
    made = TargetSet(folders=(written.parent,), lessons=20, key="k")
    assert len(form.of(made)) == 20 and len(form.of(None)) == 0
    written.unlink()
    written.with_suffix(".sha256").unlink()
    with pytest.raises(InputError, match=r"targets: of 20 soft targets 0 are there; delete the folder .*-1f0c"):
        form.of(made)


def test_disagreements_read_back_and_a_damaged_file_says_which(tmp_path: Path) -> None:
    token = Contested(position=0, token="\u2028 I", divergence=0.25)
    found = [
        Disagreement(lesson=name, teachers=("a", "b"), mean=0.125, tokens=2, largest=(token,)) for name in ("x", "y")
    ]
    write_disagreements(tmp_path / "targets-0-00000.parquet", found)
    assert list(read_disagreements([tmp_path])) == found
    file = tmp_path / "targets-0-00000.jsonl"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(InputError, match=r"targets-0-00000.jsonl: damaged .*; delete the folder"):
        list(read_disagreements([tmp_path]))
