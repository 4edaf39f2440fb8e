"""Settings check themselves, and a table lists what a recipe can name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from limbeck.errors import InputError
from limbeck.losses import LOSSES
from limbeck.models.local import Local
from limbeck.perturb import PERTURBATIONS, Typos
from limbeck.spec import Kind, Spec, Table, checked, content_hash, fingerprint


class Shape(Kind):
    """A shape."""


class Circle(Shape):
    """A round one."""

    kind: Literal["circle"] = "circle"
    radius: float = 1.0


class Files(Spec):
    paths: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()


SHAPES: Table[Shape] = Table("shape", Shape, Circle)


def test_a_member_is_read_from_its_kind_its_settings_or_itself() -> None:
    assert SHAPES.read("circle") == Circle()
    assert SHAPES.read({"kind": "circle", "radius": 2}) == Circle(radius=2)
    assert SHAPES.read(member := Circle(radius=3)) is member


@pytest.mark.parametrize("value", [None, 3, ["circle"], {"radius": 2}, {"kind": 3}])
def test_settings_without_a_kind_say_which_there_are(value: object) -> None:
    with pytest.raises(ValueError, match="a shape needs a kind; use one of: circle"):
        SHAPES.read(value)


def test_an_unknown_kind_says_the_nearest_or_all() -> None:
    with pytest.raises(ValueError, match=r"unknown shape 'cirlce'; did you mean circle\?"):
        SHAPES.read("cirlce")
    with pytest.raises(ValueError, match="unknown shape 'tetrahedron'; use one of: circle"):
        SHAPES.read("tetrahedron")


def test_an_unknown_setting_is_refused_and_settings_are_frozen() -> None:
    with pytest.raises(InputError, match="--inner-diameter: is unknown; leave it out"):
        checked(Circle, inner_diameter=2)
    with pytest.raises(ValueError, match="frozen"):
        Circle().radius = 2  # type: ignore[misc]


@pytest.mark.parametrize("table", [LOSSES, PERTURBATIONS], ids=["losses", "perturbations"])
def test_a_member_survives_being_saved(table: Table[Kind]) -> None:
    for member in table.values():
        assert table.read(member().model_dump(mode="json")) == member()


def test_a_fingerprint_changes_with_a_setting_and_with_the_content_of_a_named_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("one")
    seen = {fingerprint(Circle()), fingerprint(Circle(radius=2)), fingerprint(Files(paths=(file,)))}
    seen.add(fingerprint(Files(others=(file,))))
    file.write_text("two")
    seen |= {fingerprint(Files(paths=(file,))), fingerprint(Files(others=(file,)))}
    assert len(seen) == 6


def test_the_same_content_under_another_name_has_the_same_fingerprint(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("one")
    (tmp_path / "same.jsonl").write_text("one")
    assert fingerprint(Files(paths=(tmp_path / "rows.jsonl",))) == fingerprint(Files(paths=(tmp_path / "same.jsonl",)))
    here, there = (fingerprint(Local(model=str(tmp_path / name))) for name in ("here", "there"))
    assert here == there


def test_the_files_of_a_model_folder_belong_to_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = fingerprint(Local(model=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"layers": 2}')
    assert fingerprint(Local(model=str(tmp_path))) != before


def test_a_folder_hashes_by_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    before = content_hash(tmp_path)
    assert content_hash(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_hash(tmp_path) != before


def test_a_file_moved_to_another_subfolder_changes_the_hash_of_the_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "rows").write_text("x")
    before = content_hash(tmp_path)
    (tmp_path / "a" / "rows").rename(tmp_path / "b" / "rows")
    assert content_hash(tmp_path) != before


def test_a_missing_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file or folder"):
        fingerprint(Files(paths=(tmp_path / "none",)))


def test_a_rate_outside_its_bounds_is_refused() -> None:
    for rate in (0.0, 1.1):
        with pytest.raises(ValueError, match="rate"):
            Typos(rate=rate)
