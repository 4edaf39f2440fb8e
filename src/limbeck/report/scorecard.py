"""The scorecard as JSON that other programs read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from limbeck.errors import InputError
from limbeck.records import SCHEMA, Measurement, Scorecard


def scorecard_json(scorecard: Scorecard, others: Sequence[Scorecard] = ()) -> str:
    """One subject's figures, and under `compared_with` those of the others; what was not measured is null."""
    said: dict[str, Any] = {"schema": SCHEMA, **_figures(scorecard)}
    if others:
        said["compared_with"] = [_figures(one) for one in others]
    return json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_scorecards(text: str) -> tuple[Scorecard, ...]:
    """The scorecard that `scorecard_json` wrote, then those it was compared with."""
    said = json.loads(text)
    if not isinstance(said, dict) or said.get("schema") != SCHEMA:
        raise InputError(f"this is no scorecard of schema {SCHEMA}; write one with `limbeck evaluate`")
    return tuple(
        Scorecard(model=one["model"], measurements=tuple(map(Measurement.model_validate, one["measurements"])))
        for one in (said, *said.get("compared_with", ()))
    )


def _figures(scorecard: Scorecard) -> dict[str, Any]:
    return {
        "model": scorecard.model,
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
