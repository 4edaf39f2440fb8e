"""Each kind of error has the exit code that other programs rely on."""

from __future__ import annotations

import errno

import pytest

from limbeck.errors import GateFailed, InputError, LimbeckError, Stopped, did_you_mean, reading


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
