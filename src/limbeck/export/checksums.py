"""What a student's files were when they were written, as `sha256sum` writes and reads it."""

from __future__ import annotations

import re
from pathlib import Path

from limbeck.errors import GateFailed, InputError, reading
from limbeck.files import file_sha256

LIST = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """Lists every file below the folder in its SHA256SUMS."""
    lines = [f"{digest}  {name}\n" for name, digest in _found(folder).items()]
    (folder / LIST).write_text("".join(lines), encoding="utf-8")


def verify(folder: Path) -> int:
    """How many files there are, each as SHA256SUMS lists it. Raises GateFailed that names every one that is not."""
    listed, found = _listed(folder / LIST), _found(folder)
    wrong = []
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            wrong.append(f"{folder / name}: missing")
        elif name not in listed:
            wrong.append(f"{folder / name}: not listed")
        elif listed[name] != found[name]:
            wrong.append(f"{folder / name}: changed")
    if wrong:
        wrong.append(
            f"{len(wrong)} of the files differ from {folder / LIST}; put them back or export the student again"
        )
        raise GateFailed("\n".join(wrong))
    return len(found)


def _found(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the list, by its place in the folder, in order."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {name: file_sha256(folder / name) for name in names if name != LIST}


@reading()
def _listed(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; name a student's folder, or export the student again")
    listed = {}
    # What is not UTF-8 becomes a sign that no listed file has, and so a line that is told.
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if (match := re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)) is None:
            raise InputError(f"{file}:{number}: this is no SHA-256 with a file's name; export the student again")
        listed[match[2]] = match[1]
    return listed
