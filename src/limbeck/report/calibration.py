"""A judge's calibration as a page, and as lines for the console."""

from __future__ import annotations

from collections.abc import Iterator

from limbeck.judges.calibrate import Calibration
from limbeck.records import Measurement
from limbeck.report.charts import reliability
from limbeck.report.page import TEMPLATES

TITLES = {
    "accuracy": "accuracy of its decisions",
    "kappa": "Cohen's kappa of its decisions",
    "auc": "AUC",
    "calibration_error": "calibration error",
    "caught": "caught at the threshold",
    "false_alarms": "false alarms at the threshold",
}


def calibration_page(one: Calibration, source: str) -> str:
    """One HTML page without outside assets: figures, reliability, threshold."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    template = environment.get_template("calibration.html.j2")
    rows = [_row(figure) for figure in _figures(one)]
    picture = reliability(
        one.reliability, stated="probability the judge stated", happened="share that people labelled positive"
    )
    return template.render(one=one, source=source, rows=rows, picture=picture, promise=promise(one))


def as_lines(one: Calibration) -> Iterator[str]:
    """Each figure in a line, then what the threshold promises."""
    for row in map(_row, _figures(one)):
        yield f"{row['title']:30} {row['value']:>12}  {row['interval']:16} {row['counts']}"
    yield promise(one)


def promise(one: Calibration) -> str:
    """What the threshold promises, in a sentence."""
    asked = f"{one.threshold.catch:.0%} of the positives with {one.threshold.confidence:.0%} confidence"
    if one.threshold.value is None:
        return f"No threshold is sure to catch {asked}: label more positive replies."
    return f"A score of {one.threshold.value:.2f} or more catches at least {asked}."


def _figures(one: Calibration) -> tuple[Measurement, ...]:
    return (*one.measurements, one.threshold.caught, one.threshold.false_alarms)


def _row(figure: Measurement) -> dict[str, str]:
    unscored = f", {figure.unscored} unscored" if figure.unscored else ""
    return {
        "title": TITLES[figure.name],
        "value": "not measured" if figure.value is None else f"{figure.value:.3f}",
        "interval": "" if figure.low is None or figure.high is None else f"({figure.low:.3f}–{figure.high:.3f})",
        "counts": f"n = {figure.scored}{unscored}",
    }
