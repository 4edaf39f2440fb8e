"""Pictures of the constraints while the student trained: each measured rate against its bound, and its multiplier."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from limbeck.report.charts import LAST, PALE, Picture, svg
from limbeck.stats import Figure, proportion

# What got better is set against what got worse: such a share has no interval of a proportion.
NET = ("usefulness_drop",)


class Reading(NamedTuple):
    """One probe: after how many steps of all rounds, the rate with its interval, its bound (None: only watched), and
    what its multiplier became."""

    step: int
    rate: Figure
    bound: float | None
    multiplier: float


def read_rates(logs: Iterable[Path]) -> dict[str, list[Reading]]:
    """The readings of each constraint in the training logs of all rounds, in order; nothing where none was measured."""
    found: dict[str, list[Reading]] = {}
    done = 0
    for log in logs:
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        for row in rows:
            for name, (wrong, n) in row.get("rates", {}).items():
                rate = Figure(wrong / n, None, None) if name in NET else proportion([at < wrong for at in range(n)])
                multiplier = row.get("multipliers", {}).get(name, 0.0)
                reading = Reading(done + row["step"] - 1, rate, row["bounds"].get(name), multiplier)
                found.setdefault(name, []).append(reading)
        done += len(rows)
    return found


def held(readings: dict[str, list[Reading]]) -> list[tuple[str, Picture]]:
    """A small chart for each constraint."""
    return [(name.replace("_", " "), _chart(one)) for name, one in readings.items()]


def _chart(readings: Sequence[Reading]) -> Picture:
    import altair as alt

    values = [
        {
            "step": one.step,
            "rate": one.rate.value,
            "low": one.rate.value if one.rate.low is None else one.rate.low,
            "high": one.rate.value if one.rate.high is None else one.rate.high,
            "bound": one.bound,
            "pull": f"×{1 + one.multiplier:.1f}" if one.multiplier else "",
        }
        for one in readings
    ]
    y = {"axis": alt.Axis(format=".0%", tickCount=4), "title": None}
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X(
            "step:Q", title="step  (×: how hard its lessons pull)", axis=alt.Axis(tickCount=4, format="d", grid=False)
        )
    )
    layers = [
        base.mark_area(color=LAST, opacity=0.15).encode(y=alt.Y("low:Q", **y), y2="high:Q"),
        base.mark_line(color=LAST, strokeWidth=2, point={"color": LAST}).encode(y=alt.Y("rate:Q", **y)),
        base.mark_text(dy=-10, fontSize=11, color=PALE).encode(y=alt.Y("high:Q", **y), text="pull:N"),
    ]
    if any(one.bound is not None for one in readings):
        layers.append(base.mark_line(color=PALE, strokeDash=[5, 4]).encode(y=alt.Y("bound:Q", **y)))
    first, last = readings[0], readings[-1]
    words = f"from {first.rate.value:.0%} to {last.rate.value:.0%} in {last.step} steps"
    words += f", bound {last.bound:.0%}" if last.bound is not None else ""
    return Picture(svg(alt.layer(*layers).properties(width=300, height=140)), words)
