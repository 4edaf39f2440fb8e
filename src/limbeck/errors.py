"""Errors that are the user's to mend: printed as one message, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class LimbeckError(Exception):
    """Something the user can mend; `exit_code` is what the command line ends with."""

    exit_code = 2


class InputError(LimbeckError):
    """The user's input is wrong: says what, where, what was allowed and what to do."""


class GateFailed(LimbeckError):
    """The work is done, and what was to hold does not."""

    exit_code = 1


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


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """'did you mean X?' where a near miss is allowed, else 'use one of ...'."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"use one of: {', '.join(names)}"
