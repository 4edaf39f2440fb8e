"""A student's files are checked against the list that was written with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.errors import GateFailed, InputError
from limbeck.export.checksums import verify, write_checksums

# SHA-256 of "abc" (the first example of FIPS 180-2) and of nothing.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def student(tmp_path: Path) -> Path:
    for name, content in (("merged/b", "abc"), ("merged/a", ""), ("adapter/c", "abc")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    write_checksums(tmp_path)
    return tmp_path


def complaint(student: Path) -> list[str]:
    with pytest.raises(GateFailed) as raised:
        verify(student)
    return str(raised.value).replace(f"{student}/", "").splitlines()


def test_the_list_is_as_sha256sum_writes_it_in_order_of_the_names(student: Path) -> None:
    assert (student / "SHA256SUMS").read_text() == f"{ABC}  adapter/c\n{EMPTY}  merged/a\n{ABC}  merged/b\n"


def test_a_student_that_is_as_listed_passes_also_through_a_link_and_with_a_list_of_binary_files(student: Path) -> None:
    assert verify(student) == 3
    (student.parent / "link").symlink_to(student)
    assert verify(student.parent / "link") == 3
    (student / "SHA256SUMS").write_text((student / "SHA256SUMS").read_text().replace("  ", " *"))
    assert verify(student) == 3


def test_every_file_that_changed_is_missing_or_is_not_listed_is_named(student: Path) -> None:
    (student / "adapter/c").write_text("abd")
    (student / "merged/a").unlink()
    (student / "merged/.new").write_text("")
    assert complaint(student) == [
        "adapter/c: changed",
        "merged/.new: not listed",
        "merged/a: missing",
        "3 of the files differ from SHA256SUMS; put them back or export the student again",
    ]


def test_a_folder_without_a_list_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SHA256SUMS: there is no such file; name a student's folder"):
        verify(tmp_path)


def test_a_torn_list_is_named_with_its_line(student: Path) -> None:
    whole = (student / "SHA256SUMS").read_text()
    (student / "SHA256SUMS").write_text(whole[: len(ABC) + len("  adapter/c") + 10])
    with pytest.raises(InputError, match="SHA256SUMS:2: this is no SHA-256 with a file's name; export the student"):
        verify(student)
