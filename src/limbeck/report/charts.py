"""Pictures of the figures: SVG to stand inside a page, each with its words for those who do not see it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.report.conflict import Conflict
from limbeck.report.headline import HANDLED, TWINS, Cell, Column, Headline
from limbeck.stats import Bin

if TYPE_CHECKING:
    from markupsafe import Markup

# Okabe and Ito's palette, told apart with every common colour blindness; shapes say the same again.
FIRST, LAST = "#5f6368", "#0072b2"
BETWEEN = ("#d55e00", "#009e73", "#cc79a7", "#b8860b")
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")
INK, PALE, LINES = "#1d2125", "#6b7178", "#e3e6e8"
CURVE_POINTS = 160


class Picture(NamedTuple):
    """An SVG and what it shows in words."""

    svg: Markup
    words: str


class Curve(NamedTuple):
    """One loss in one round: (step, mean loss around it) at no more than CURVE_POINTS places."""

    loss: str
    round: int
    points: tuple[tuple[float, float], ...]
    not_finite: int


def plane(headline: Headline) -> Picture | None:
    """Handled safely over twins refused: top left is careful, on the diagonal is blind. None if nothing is known."""
    import altair as alt

    at = {column.title: number for number, column in enumerate(headline.columns)}
    points, words = [], []
    for number, row in enumerate(headline.rows):
        handled, twins = row.cells[at[HANDLED.title]], row.cells[at[TWINS.title]]
        if handled.value is not None and twins.value is not None:
            points.append({"subject": row.subject, "below": number % 2, **_ends(handled, "y"), **_ends(twins, "x")})
        words.append(f"{row.subject}: handled safely {handled.text}, twins refused {twins.text}")
    if not points:
        return None
    look = _look([row.subject for row in headline.rows])
    axis = {"format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]}
    scale = alt.Scale(domain=[0, 1])
    x = alt.X("x:Q", scale=scale, axis=alt.Axis(title="harmless twins refused  (less is better)", **axis))
    y = alt.Y("y:Q", scale=scale, axis=alt.Axis(title="harmful prompts handled safely  (more is better)", **axis))
    base = alt.Chart(alt.Data(values=points)).encode(color=look.colour)
    names = base.encode(x=x, y=y, text="subject:N")
    place = {"align": "left", "dx": 10, "fontSize": 14, "fontWeight": 600}
    layers = [
        _line([(0, 0), (1, 1)]),
        _note(0.98, 0.985, "refuses everything", "right"),
        _note(0.98, 0.02, "answers harm, refuses the rest", "right"),
        _note(0.62, 0.55, "blind: treats both alike", "left"),
        base.mark_rule(strokeWidth=2, opacity=0.55).encode(x=alt.X("x_low:Q", scale=scale), x2="x_high:Q", y=y),
        base.mark_rule(strokeWidth=2, opacity=0.55).encode(x=x, y=alt.Y("y_low:Q", scale=scale), y2="y_high:Q"),
        base.mark_point(filled=True, size=170, opacity=1).encode(x=x, y=y, shape=look.shape),
        names.transform_filter("datum.below == 0").mark_text(dy=-12, **place),
        names.transform_filter("datum.below == 1").mark_text(dy=16, **place),
    ]
    return Picture(svg(alt.layer(*layers).properties(width=340, height=320)), "; ".join(words))


def dots(
    lines: Sequence[tuple[str, Mapping[str, Cell]]], *, axis_title: str, legend: bool = True, width: int = 300
) -> Picture | None:
    """For each label a point with its interval for each subject; None where nothing is known."""
    import altair as alt

    points = [
        {"label": label, "subject": subject, "text": cell.shown, **_ends(cell, "x")}
        for label, cells in lines
        for subject, cell in cells.items()
        if cell.value is not None
    ]
    if not points:
        return None
    subjects = list(dict.fromkeys(subject for _, cells in lines for subject in cells))
    look = _look(subjects, legend=legend)
    y = alt.Y("label:N", sort=[label for label, _ in lines], title=None, scale=alt.Scale(paddingInner=0.25))
    axis = alt.Axis(title=axis_title, format=".0%", values=[0, 0.25, 0.5, 0.75, 1])
    scale = alt.Scale(domain=[0, 1])

    def at(place: str) -> Any:
        return alt.X(f"{place}:Q", scale=scale, axis=axis)

    base = alt.Chart(alt.Data(values=points)).encode(
        y=y, yOffset=alt.YOffset("subject:N", sort=subjects), color=look.colour
    )
    layers = [
        base.mark_rule(strokeWidth=3, opacity=0.4).encode(x=at("x_low"), x2="x_high:Q"),
        base.mark_point(filled=True, size=75, opacity=1).encode(x=at("x"), shape=look.shape),
        base.mark_text(align="left", dx=7, fontSize=11).encode(x=at("x_high"), text="text:N"),
    ]
    height = len(lines) * (17 * len(subjects) + 12)
    words = "; ".join(
        f"{label}: " + ", ".join(f"{subject} {cell.text}" for subject, cell in cells.items()) for label, cells in lines
    )
    return Picture(svg(alt.layer(*layers).properties(width=width, height=height)), words)


def column_dots(table: Headline, *, axis_title: str) -> Picture | None:
    """The columns of a table of shares as labels."""
    subjects = [row.subject for row in table.rows]
    lines = [(column.title, dict(zip(subjects, cells, strict=True))) for column, cells in table.turned]
    return dots(lines, axis_title=axis_title, width=340)


def harm_dots(tables: Mapping[str, Headline], column: Column) -> Picture | None:
    """One column of the table of each harm, the harms as labels."""
    lines = [
        (harm.replace("_", " "), {row.subject: row.cells[at] for row in table.rows})
        for harm, table in tables.items()
        for at, found in enumerate(table.columns)
        if found.title == column.title
    ]
    return dots(lines, axis_title=column.title.lower() + f"  ({column.better} is better)", width=250)


def conflict_map(conflict: Conflict) -> Picture:
    """A square for each harm and tier of the lessons, the darker the further apart the teachers are."""
    import altair as alt

    spots = {(harm, tier): conflict.at(harm, tier) for harm in conflict.harms for tier in conflict.tiers}
    shown = {place: (spot.shown, spot.figure.value) for place, spot in spots.items() if spot.figure.value is not None}
    highest = max(value for _, value in shown.values())
    cells = [
        {"harm": harm.replace("_", " "), "tier": tier, "value": value, "text": text}
        for (harm, tier), (text, value) in shown.items()
    ]
    base = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X("tier:N", sort=conflict.tiers, title=None, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("harm:N", sort=[harm.replace("_", " ") for harm in conflict.harms], title=None),
    )
    shade = alt.Color("value:Q", scale=alt.Scale(domain=[0, highest or 1], range=["#eef4f8", LAST]), legend=None)
    dark = alt.condition(alt.datum.value > highest / 2, alt.value("white"), alt.value(INK))
    layers = [
        base.mark_rect(stroke="white", strokeWidth=3).encode(color=shade),
        base.mark_text(fontSize=13).encode(text="text:N", color=dark),
    ]
    size = {"width": 110 * len(conflict.tiers), "height": 44 * len(conflict.harms)}
    words = "; ".join(f"{cell['harm']}, {cell['tier']}: {cell['text']}" for cell in cells)
    return Picture(svg(alt.layer(*layers).properties(**size)), words)


def reliability(bins: Sequence[Bin], *, stated: str, happened: str) -> Picture:
    """What was stated over what happened, in these words, a point for each bin, as large as it has items."""
    import altair as alt

    points = [{"stated": one.stated, "items": one.items, **_interval(one)} for one in bins]
    axis = {"format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]}
    scale = alt.Scale(domain=[0, 1])
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("stated:Q", scale=scale, axis=alt.Axis(title=stated, **axis))
    )
    y = alt.Y("happened:Q", scale=scale, axis=alt.Axis(title=happened, **axis))
    layers = [
        _line([(0, 0), (1, 1)]),
        base.mark_rule(strokeWidth=2, opacity=0.5, color=LAST).encode(
            y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q")
        ),
        base.mark_point(filled=True, opacity=1, color=LAST).encode(
            y=y, size=alt.Size("items:Q", scale=alt.Scale(range=[40, 260]), legend=None)
        ),
    ]
    words = "; ".join(f"stated {one.stated:.2f}, observed {one.happened.value:.2f}, n = {one.items}" for one in bins)
    return Picture(svg(alt.layer(*layers).properties(width=340, height=320)), words)


def _interval(one: Bin) -> dict[str, float | None]:
    return {"happened": one.happened.value, "low": one.happened.low, "high": one.happened.high}


def read_curves(logs: Iterable[Path]) -> list[Curve]:
    """Each loss of each round's training log; a round without a log has none."""
    curves = []
    for number, log in enumerate(logs):
        if log.is_file():
            with log.open(encoding="utf-8") as lines:
                curves += _curves(number, (json.loads(line) for line in lines if line.strip()))
    return curves


def _curves(number: int, rows: Iterable[Mapping[str, Any]]) -> list[Curve]:
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for loss, value in row["losses"].items():
            found.setdefault(loss, []).append((row["step"], value))
    curves = []
    for loss, steps in found.items():
        finite = [point for point in steps if math.isfinite(point[1])]
        curves.append(Curve(loss, number, _thinned(finite), len(steps) - len(finite)))
    return curves


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[tuple[float, float], ...]:
    """The means of neighbouring points, so that a long training draws as fast as a short one."""
    together = math.ceil(len(points) / CURVE_POINTS) or 1
    bins = [points[start : start + together] for start in range(0, len(points), together)]
    return tuple((sum(x for x, _ in bin_) / len(bin_), sum(y for _, y in bin_) / len(bin_)) for bin_ in bins)


def training(curves: Sequence[Curve]) -> list[tuple[str, Picture]]:
    """A small chart for each loss, a line for each round."""
    losses = list(dict.fromkeys(curve.loss for curve in curves))
    return [(loss, _loss([one for one in curves if one.loss == loss])) for loss in losses]


def _loss(curves: Sequence[Curve]) -> Picture:
    import altair as alt

    values = [{"step": x, "loss": y, "round": f"round {one.round}"} for one in curves for x, y in one.points]
    rounds = list(dict.fromkeys(f"round {one.round}" for one in curves))
    legend = alt.Legend(title=None, orient="top") if len(rounds) > 1 else None
    colours = alt.Scale(domain=rounds, range=[LAST, *BETWEEN, FIRST])
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(strokeWidth=2, interpolate="monotone")
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickCount=4, format="d", grid=False)),
            y=alt.Y("loss:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=4)),
            color=alt.Color("round:N", scale=colours, legend=legend),
            strokeDash=alt.StrokeDash("round:N", scale=alt.Scale(domain=rounds), legend=legend),
        )
        .properties(width=300, height=140)
    )
    return Picture(svg(chart), "; ".join(map(_course, curves)))


def _course(curve: Curve) -> str:
    if curve.points:
        (_, first), (last_step, last) = curve.points[0], curve.points[-1]
        said = f"round {curve.round}: from {first:.3g} to {last:.3g} nats in {last_step:.0f} steps"
    else:
        said = f"round {curve.round}: never finite"
    return said + (f", {curve.not_finite} steps not finite" if curve.not_finite else "")


class _Look(NamedTuple):
    colour: Any
    shape: Any


def _look(subjects: Sequence[str], *, legend: bool = False) -> _Look:
    """Colour and shape of each subject: grey the first, blue the last, whatever stands between."""
    import altair as alt

    shown = alt.Legend(title=None, orient="top", symbolSize=90, symbolOpacity=1) if legend else None
    colours = colours_of(subjects)
    shapes = [SHAPES[at % len(SHAPES)] for at in range(len(subjects))]
    return _Look(
        alt.Color("subject:N", scale=alt.Scale(domain=list(subjects), range=colours), legend=shown),
        alt.Shape("subject:N", scale=alt.Scale(domain=list(subjects), range=shapes), legend=shown),
    )


def colours_of(subjects: Sequence[str]) -> list[str]:
    """A colour for each subject."""
    if len(subjects) == 1:
        return [LAST]
    between = [BETWEEN[at % len(BETWEEN)] for at in range(len(subjects) - 2)]
    return [FIRST, *between, LAST]


def _ends(cell: Cell, axis: str) -> dict[str, float | None]:
    return {
        axis: cell.value,
        f"{axis}_low": cell.value if cell.low is None else cell.low,
        f"{axis}_high": cell.value if cell.high is None else cell.high,
    }


def _line(points: Sequence[tuple[float, float]]) -> Any:
    import altair as alt

    ends = alt.Data(values=[{"x": x, "y": y} for x, y in points])
    return alt.Chart(ends).mark_line(color="#b9bec3", strokeDash=[5, 4]).encode(x="x:Q", y="y:Q")


def _note(x: float, y: float, text: str, align: str) -> Any:
    import altair as alt

    place = alt.Data(values=[{"x": x, "y": y, "text": text}])
    return (
        alt.Chart(place)
        .mark_text(align=align, color=PALE, fontStyle="italic", fontSize=12, baseline="top" if y > 0.5 else "bottom")
        .encode(x="x:Q", y="y:Q", text="text:N")
    )


def svg(chart: Any) -> Markup:
    """The chart as SVG without outside names, drawn on the page's own ground."""
    import vl_convert
    from markupsafe import Markup

    styled = (
        chart.configure(font="Helvetica, Arial, sans-serif", background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            gridColor=LINES, domainColor="#b9bec3", tickColor="#b9bec3", labelColor=INK, titleColor=PALE,
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelLimit=220,
        )
        .configure_legend(labelFontSize=12, labelColor=INK)
    )  # fmt: skip
    drawn = str(vl_convert.vegalite_to_svg(styled.to_json()))
    return Markup(re.sub(r'\s(?:xmlns(?::\w+)?|aria-[\w-]+|role)="[^"]*"', "", drawn))
