"""Processes started together by torchrun: the first does the whole run, the others wait and help it to train."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from types import FrameType
from typing import Any, TypeVar

from limbeck.errors import InputError, LimbeckError

# Between two trainings lies all that the first process does alone.
PATIENCE = timedelta(days=30)
Result = TypeVar("Result")


def started() -> int:
    """How many processes were started together, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def leading() -> Iterator[bool]:
    """Whether this process leads. One that does not has helped, at the beginning of the block, for as long as the first
    is in it. Raises InputError where processes started together do not find one another."""
    if started() == 1:
        yield True
        return
    from torch.distributed import destroy_process_group

    _join()
    try:
        if is_first():
            yield True
            _order(None)
        else:
            _help()
            yield False
    except SystemExit as end:
        # After a failure the others may be in the middle of a step and hear nothing; torchrun ends them.
        if is_first() and not end.code:
            _order(None)
        raise
    finally:
        # Left to itself, the group aborts a process that ends before the others; and one that is still referred to
        # keeps threads, any of which aborts the process where it lets go of its last tensor after Python has ended.
        _orders.cache_clear()
        destroy_process_group()


def together(work: Callable[..., Result], *given: Any) -> Result:
    """What the work makes of this, done in all processes at once. All of it must bear pickling."""
    if started() > 1:
        _order((work, given))
    return work(*given)


@contextmanager
def stopped_in_between(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that what is under way can be ended and kept, which it says; the process
    is stopped at the end of the block, or by a second Ctrl-C at once. One that trains with others stops at once: they
    would wait."""
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if started() > 1 or threading.current_thread() is not threading.main_thread() or not callable(before):
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            before(number, frame)
        asked.set()
        say("stopping once what was learnt is kept; Ctrl-C again interrupts it")

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
    if asked.is_set():
        raise KeyboardInterrupt


def check_together(count: int) -> None:
    """Raises InputError where so many processes train together and others were started than these: each alone would
    train all of it, in one folder."""
    if count != started():
        raise InputError(
            f"{started()} processes were started and {count} train together: each would train all of it, in one "
            "folder; without a GPU set ACCELERATE_USE_CPU=true, let `limbeck.processes.leading()` come before "
            "anything of accelerate in a program of your own, or start one process without torchrun"
        )


def _join() -> None:
    import torch
    from accelerate import PartialState

    # Without `cpu` accelerate finds no device to work on together, and each process a world of its own.
    check_together(PartialState(cpu=not torch.cuda.is_available()).num_processes)
    _orders()


@cache
def _orders() -> Any:
    """The group in which orders are given: not the training's own, which would keep the devices busy waiting."""
    from torch.distributed import new_group

    return new_group(backend="gloo", timeout=PATIENCE)


def _order(what: tuple[Callable[..., Any], tuple[Any, ...]] | None) -> Any:
    """The order that the first process gives."""
    from torch.distributed import broadcast_object_list

    heard = [what]
    broadcast_object_list(heard, src=0, group=_orders())
    return heard[0]


def _help() -> None:
    while (order := _order(None)) is not None:
        work, given = order
        try:
            work(*given)
        except LimbeckError:
            # All do the same, so the first one says it.
            return
