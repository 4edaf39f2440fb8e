"""How many draws came to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from limbeck.records import Candidate


def telling_failures(drawn: Iterable[Candidate], *, say: Callable[[str], None]) -> Iterator[Candidate]:
    """The draws as they come, and after the last a line with how many of the teachers' were blocked or failed, if any,
    and why the first was."""
    asked, failures = 0, []
    for one in drawn:
        yield one
        if one.role == "taught" and not one.by_house:
            asked += 1
            if one.finish in ("blocked", "failed"):
                failures.append(one.why or one.finish)
    if failures:
        say(f"draws: {len(failures)} of {asked} were blocked or failed (of the first: {failures[0]})")
