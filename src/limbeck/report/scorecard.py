"""The scorecard as JSON that other programs read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, text_in
from limbeck.files import noun_at
from limbeck.records import SCHEMA, Scorecard

ANEW = "write it anew with `limbeck evaluate`"


def scorecard_json(scorecard: Scorecard, others: Sequence[Scorecard] = ()) -> str:
    """One subject's figures, and under `compared_with` those of the others; what was not measured is null."""
    said: dict[str, Any] = {"schema": SCHEMA, **_figures(scorecard)}
    if others:
        said["compared_with"] = [_figures(one) for one in others]
    return json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_scorecards(file: Path) -> tuple[Scorecard, ...]:
    """The scorecard of a file that `scorecard_json` wrote, then those it was compared with.

    Raises InputError with the file, and the line where it is torn.
    """
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; name a folder of `limbeck evaluate`, or a scorecard.json")
    try:
        said = json.loads(text_in(file, remedy=ANEW))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{error.lineno}: no whole JSON ({error.msg}); {ANEW}") from error
    schema = said.get("schema") if isinstance(said, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{file}: its schema is {json.dumps(schema)}, and {SCHEMA} is read here; {ANEW}")
    others = said.get("compared_with", [])
    if not isinstance(others, list) or not all(isinstance(one, dict) for one in others):
        raise InputError(f"{file}: 'compared_with' is no list of scorecards; {ANEW}")
    return tuple(
        noun_at(
            str(file),
            Scorecard,
            {
                **{name: one.get(name) for name in ("model", "measurements", "max_tokens")},
                "profile": one.get("profile", ""),
                "dimensions": one.get("dimensions", {}),
            },
        )
        for one in (said, *others)
    )


def _figures(scorecard: Scorecard) -> dict[str, Any]:
    return {
        "model": scorecard.model,
        "profile": scorecard.profile,
        "max_tokens": scorecard.max_tokens,
        "dimensions": scorecard.dimensions,
        "measurements": [
            {
                "name": one.name,
                "slice": one.slice,
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "scored": one.scored,
                "unscored": one.unscored,
            }
            for one in scorecard.measurements
        ],
    }
