"""Each kind of error has the exit code that other programs rely on."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from limbeck.errors import GateFailed, InputError, LimbeckError, Stopped, did_you_mean, reading, writing


def test_a_failed_gate_is_1_a_wrong_input_2_and_a_stop_130() -> None:
    assert [one.exit_code for one in (GateFailed, InputError, LimbeckError, Stopped)] == [1, 2, 2, 130]


def test_a_near_miss_is_suggested_and_else_all_that_is_allowed() -> None:
    assert did_you_mean("lerning_rate", ["learning_rate", "clip"]) == "did you mean learning_rate?"
    assert did_you_mean("zzz", ["learning_rate", "clip"]) == "use one of: clip, learning_rate"


def test_a_file_that_may_not_be_read_is_named_with_what_to_do() -> None:
    with pytest.raises(InputError) as raised, reading():
        raise PermissionError(errno.EACCES, "Permission denied", "a.jsonl")
    assert (
        str(raised.value) == "a.jsonl: cannot be read (Permission denied); let this user read it and enter its folder"
    )


@pytest.mark.parametrize("named", ["out/.student.new", "out/student", "out"])
def test_a_place_that_cannot_be_is_named_and_not_the_hidden_file_beside_it(named: str) -> None:
    with pytest.raises(InputError) as raised, writing(Path("out/student")):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", named)
    assert str(raised.value) == "out/student: cannot be made (No such file or directory); name another place"


def test_a_missing_file_elsewhere_is_not_the_place() -> None:
    with pytest.raises(FileNotFoundError) as raised, writing(Path("out/student")):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "base/config.json")
    assert raised.value.filename == "base/config.json"
