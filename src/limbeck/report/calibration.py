"""A judge's calibration as a page, and as lines for the console."""

from __future__ import annotations

from collections.abc import Iterator

from limbeck.judges.calibrate import Calibration, Fitted, Threshold
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
    fitted = [_fitted(each) for each in one.fitted]
    picture = reliability(
        one.reliability, stated="probability the judge stated", happened="share that people labelled positive"
    )
    return template.render(one=one, source=source, rows=rows, fitted=fitted, picture=picture, promise=promise(one))


def as_lines(one: Calibration) -> Iterator[str]:
    """Each figure in a line, then the fitted thresholds, then what is promised."""
    for row in map(_row, _figures(one)):
        yield f"{row['title']:30} {row['value']:>12}  {row['interval']:16} {row['counts']}"
    for row in map(_fitted, one.fitted):
        yield f"{row['title']:30} {row['value']:>12}  {row['told']}"
    yield promise(one)


def promise(one: Calibration) -> str:
    """What the threshold promises of the replies that the judge scores, or each of those fitted, in a sentence."""
    told = one.threshold or one.fitted[0].threshold
    scored = " that it scores" if one.unscored else ""
    asked = f"{told.catch:.0%} of the positives{scored} with {told.confidence:.0%} confidence"
    if one.threshold is None:
        return f"Each threshold by itself catches at least {asked}; where one is undecided, nothing changes."
    if one.threshold.value is None:
        return f"No threshold is sure to catch {asked}: label more positive replies."
    if one.threshold.value == 0:
        return f"No score above 0 is sure to catch {asked}: the judge does not see what people labelled."
    return f"A score of {one.threshold.value:.2f} or more catches at least {asked}."


def _figures(one: Calibration) -> tuple[Measurement, ...]:
    return one.measurements if one.threshold is None else (*one.measurements, *_costs(one.threshold))


def _costs(threshold: Threshold) -> tuple[Measurement, Measurement]:
    return threshold.caught, threshold.false_alarms


def _fitted(one: Fitted) -> dict[str, str]:
    value, told = "undecided", one.undecided
    if not one.undecided:
        value = f"{one.threshold.value:.2f}"
        told = ", ".join(
            f"{TITLES[row.name]} {_row(row)['value']} {_row(row)['interval']}" for row in _costs(one.threshold)
        )
    told += f"; n = {one.positives} positive, {one.negatives} negative"
    if missing := sum(row.unscored for row in _costs(one.threshold) if not one.undecided):
        told += f", {missing} unscored"
    return {"title": f"{one.harm}, {one.language}", "value": value, "told": told}


def _row(figure: Measurement) -> dict[str, str]:
    unscored = f", {figure.unscored} unscored" if figure.unscored else ""
    return {
        "title": TITLES[figure.name],
        "value": "not measured" if figure.value is None else f"{figure.value:.3f}",
        "interval": "" if figure.low is None or figure.high is None else f"({figure.low:.3f}–{figure.high:.3f})",
        "counts": f"n = {figure.scored}{unscored}",
    }
