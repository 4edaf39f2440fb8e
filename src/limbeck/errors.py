"""Errors that are the user's to mend: printed as one message, without a traceback."""

from __future__ import annotations

import errno
import importlib.util
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

# What the disk says when it is full, and when this user may not do that.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class LimbeckError(Exception):
    """Something the user can mend; `exit_code` is what the command line ends with."""

    exit_code = 2


class InputError(LimbeckError):
    """The user's input is wrong: says what, where, what was allowed and what to do."""


class GateFailed(LimbeckError):
    """The work is done, and what was to hold does not."""

    exit_code = 1


class Unreachable(LimbeckError):
    """What a teacher, a judge or a model is fetched from did not answer, after retries."""

    exit_code = 3


class Stopped(LimbeckError):
    """The user stopped the work."""

    exit_code = 130


@contextmanager
def reading() -> Iterator[None]:
    """Raises InputError where the block reads what is a folder, or what this user may not read."""
    try:
        yield
    except IsADirectoryError as error:
        raise InputError(f"{error.filename}: this is a folder and cannot be read as a file; name a file") from error
    except PermissionError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); let this user read it and enter its folder"
        ) from error


def text_in(file: Path, *, remedy: str = "save it as UTF-8") -> str:
    """The text of a file. Raises InputError where it cannot be read, and with the remedy where it is not UTF-8."""
    with reading():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: byte {error.start} is not UTF-8; {remedy}") from error


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the disk refuses in the block is said of `place`, not of the hidden file beside it. Raises InputError for a
    place that cannot be."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        named = Path(error.filename or place)
        if named.parent != place.parent and named not in place.parents:
            raise
        raise InputError(f"{place}: cannot be made ({error.strerror}); name another place") from error
    except OSError as error:
        error.filename = str(place)
        raise


def check_installed(package: str, *, wanted_by: str, requirement: str = "") -> None:
    """Raises InputError where a package that not everybody needs is not installed, and says what to install."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{wanted_by} needs the package {package}; run: pip install {requirement or package}")


# What pydantic finds, by its type of error; {given} is what stands there, the rest its own figures.
SENTENCES = {
    "missing": "is missing; it has no default",
    "extra_forbidden": "is unknown; leave it out",
    "literal_error": "is {given}; use {expected}",
    "greater_than": "is {given}; use more than {gt}",
    "greater_than_equal": "is {given}; use {ge} or more",
    "less_than": "is {given}; use less than {lt}",
    "less_than_equal": "is {given}; use {le} or less",
    "too_short": "has {actual_length} items; give at least {min_length}",
    "string_too_short": "is {given}; write something",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "is {given}; use a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "is {given}; use a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "is {given}; use true or false"),
    **dict.fromkeys(("string_type", "path_type"), "is {given}; use text"),
    "tuple_type": "is {given}; use a list",
    **dict.fromkeys(("dict_type", "model_type"), "is {given}; use key: value pairs"),
}


def sentence(problem: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says, to stand behind the name of what is wrong."""
    if (said := SENTENCES.get(problem["type"])) is None:
        return str(problem["msg"]).removeprefix("Value error, ")
    given = "empty" if problem["input"] is None else reprlib.repr(problem["input"])
    figures = {name: str(one).replace("'", "").removesuffix(".0") for name, one in problem.get("ctx", {}).items()}
    return said.format(given=given, **figures)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """'did you mean X?' where a near miss is allowed, else 'use one of ...'."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"use one of: {', '.join(names)}"
