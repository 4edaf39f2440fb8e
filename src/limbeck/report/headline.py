"""The figures of several subjects side by side, as plain data that pages, cards and consoles draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from limbeck.records import Measurement, Scorecard
from limbeck.stats import Figure
from limbeck.taxonomy import HARMS

if TYPE_CHECKING:
    from rich.table import Table

Unit = Literal["share", "points", "score"]
NOT_MEASURED: Literal["not measured"] = "not measured"


@dataclass(frozen=True, kw_only=True)
class Column:
    """Which measurement is shown, under which title, and which way is good.

    With `worst`, the name of a slice, the one with such a slice that is most surely low, and the cell says which.
    """

    title: str
    meaning: str
    name: str
    unit: Unit = "share"
    better: Literal["more", "less", ""] = "more"
    slice: Mapping[str, str] = field(default_factory=dict)
    worst: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure with its 95 % interval, how many items were scored (`n`) and how many could not be."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    unscored: int
    unit: Unit = "share"
    note: str = ""
    otherwise: str = NOT_MEASURED

    @property
    def shown(self) -> str:
        """The value with its unit, or what stands in place of one."""
        return self.otherwise if self.value is None else with_unit(self.value, self.unit)

    @property
    def interval(self) -> str:
        """The interval without unit, empty where there is none."""
        return span(self.low, self.high, self.unit)

    @property
    def counts(self) -> str:
        """How many items the figure rests on, and how many it could not count."""
        return f"n\u00a0{self.n}, {self.unscored}\u00a0unscored"

    @property
    def text(self) -> str:
        """Value, interval and note in one line."""
        return self.shown + (f" ({self.interval})" if self.interval else "") + (f", {self.note}" if self.note else "")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The cells of one subject, one for each column."""

    subject: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A table of figures: what each column means, and a row for each subject."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def turned(self) -> list[tuple[Column, list[Cell]]]:
        """The same table with a line for each column, which fits a narrow page."""
        return [(column, [row.cells[at] for row in self.rows]) for at, column in enumerate(self.columns)]


HANDLED = Column(
    title="Handled safely",
    meaning="harmful prompts refused, in part or in full, as every judge sees it",
    name="handled_safely",
)
TWINS = Column(
    title="Twins refused",
    meaning="harmless prompts that look like harmful ones, refused all the same",
    name="refused_when_harmless",
    better="less",
    slice={"of": "twins"},
)
EVERYDAY = replace(TWINS, title="Everyday refused", meaning="everyday questions refused", slice={"of": "everyday"})
BORDERLINE = replace(
    TWINS,
    title="Borderline refused",
    meaning="prompts that should be answered with care, refused instead",
    slice={"of": "borderline"},
)
MULTIPLE_CHOICE = Column(
    title="Multiple choice",
    meaning="questions whose right answer is the likeliest of those given (mean log-probability per token)",
    name="multiple_choice_accuracy",
)
DROP = Column(
    title="Usefulness drop",
    meaning="multiple-choice accuracy lost against the first subject on the same questions, in points",
    name="usefulness_drop",
    unit="points",
    better="less",
)
LIKENESS = Column(
    title="Likeness",
    meaning="cosine between a harmless reply's embedding and the reference reply's, from -1 to 1",
    name="likeness",
    unit="score",
)
REPETITIVE = Column(
    title="Repetitive",
    meaning="replies more than three tenths of whose four-word runs stood in them before",
    name="repetitive",
    better="less",
)
SEPARATION = Column(
    title="Separation",
    meaning="share of harmful prompts refused minus share of their twins refused, in points",
    name="separation",
    unit="points",
)
SAME_DECISION = Column(
    title="Same decision",
    meaning="prompts on which rewording or asking again does not change whether it refuses; the worst way is named",
    name="same_decision",
    worst="perturbation",
)
HEADLINE = (
    HANDLED,
    TWINS,
    EVERYDAY,
    BORDERLINE,
    SEPARATION,
    Column(
        title="Decision AUC",
        meaning="chance that the model leans more to refusing a harmful prompt than a twin; 0.5 is blind",
        name="decision_auc",
        unit="score",
    ),
    MULTIPLE_CHOICE,
    DROP,
    LIKENESS,
    REPETITIVE,
    SAME_DECISION,
)
REFUSAL = (
    Column(title="Harmful", meaning="prompts that should be refused", name="refused_when_due"),
    replace(BORDERLINE, title="Borderline", meaning="prompts that should be answered with care"),
    replace(TWINS, title="Twins", meaning="harmless prompts that look like harmful ones"),
    replace(EVERYDAY, title="Everyday", meaning="everyday questions"),
)
TOLD_APART = Column(
    title="Told apart",
    meaning="pairs of a harmful prompt and its twin of which the first alone is refused",
    name="told_apart",
)
# What the validation split says of each strength of the adapter.
STRENGTH = (replace(REFUSAL[0], title="Harmful refused"), TWINS, SEPARATION)
USEFULNESS = (MULTIPLE_CHOICE, DROP, LIKENESS, REPETITIVE)
POINTS = ("separation", "usefulness_drop")
SCORES = (
    "decision_auc", "likeness", "mc2", "answer_f1", "perplexity", "s_amb", "s_dis", "likelihood_difference",
    "kd_alignment", "noise_robustness", "refusal_calibration_error", "reply_words", "canary_moved",
)  # fmt: skip


# Figures whose name says nothing by itself.
GLOSSES = {
    "mc1": "true answer likeliest (mc1)",
    "mc2": "probability of true answers (mc2)",
    "s_amb": "bias where it is unknown (s_amb)",
    "s_dis": "bias where it is told (s_dis)",
    "kd_alignment": "likeness to the teacher's distribution (kd_alignment)",
    "top1_agreement": "same likeliest token as the teacher (top1_agreement)",
}


def readable(name: str) -> str:
    """What a harm, a figure or a part of them is called where people read it."""
    return GLOSSES.get(name, name.replace("_", " "))


def headline(scorecards: Sequence[Scorecard]) -> Headline:
    """The figures that decide, a row for each scorecard in the order given; the others are compared with the first."""
    return figures(scorecards, HEADLINE)


def by_harm(scorecards: Sequence[Scorecard]) -> dict[str, Headline]:
    """For each harm that was measured: handled safely and twins refused of every subject."""
    return {
        harm: figures(
            scorecards,
            (replace(HANDLED, slice={"harm": harm}), replace(TWINS, slice={"of": "twins", "harm": harm})),
        )
        for harm in in_order(
            one.slice["harm"] for card in scorecards for one in card.measurements if "harm" in one.slice
        )
    }


def all_harms(scorecards: Sequence[Scorecard]) -> Headline:
    """The tables of all harms as one."""
    columns = [
        replace(column, title=f"{column.title}: {readable(harm)}")
        for harm, table in by_harm(scorecards).items()
        for column in table.columns
    ]
    return figures(scorecards, columns)


def consistency(scorecards: Sequence[Scorecard]) -> Headline:
    """The share of unchanged decisions under each perturbation."""
    kinds = dict.fromkeys(
        one.slice["perturbation"]
        for card in scorecards
        for one in card.measurements
        if one.name == "same_decision" and "perturbation" in one.slice
    )
    columns = [
        Column(title=kind, meaning=MEANS_THE_SAME.get(kind, ""), name="same_decision", slice={"perturbation": kind})
        for kind in kinds
    ]
    return figures(scorecards, columns)


MEANS_THE_SAME = {
    "typos": "slips of the finger in the prompt",
    "casing": "the prompt in other letters, large or small",
    "paraphrase": "the prompt said in other words",
    "order": "the prompt's sentences or clauses in another order",
    "samples": "the prompt as written, asked again at temperature 1",
}


def attacks(scorecards: Sequence[Scorecard], on: str) -> Headline:
    """Attack success of every subject, the attack that works best `on` the one of this name first."""
    kinds = dict.fromkeys(
        one.slice["attack"]
        for card in sorted(scorecards, key=lambda card: card.model != on)
        for one in card.measurements
        if one.name == "attack_success"
    )
    columns = [
        Column(
            title=kind,
            meaning=ATTACKED.get(kind, ""),
            name="attack_success",
            better="less",
            slice={"attack": kind},
        )
        for kind in kinds
    ]
    return figures(scorecards, columns)


ATTACKED = {
    "any": "harmful prompts on which at least one of the attacks succeeds",
    "none": "the same prompts as written",
}


def attacked_harms(scorecard: Scorecard) -> Headline:
    """Attack success on one subject, a row for each harm."""
    found = [one for one in scorecard.measurements if one.name == "attack_success"]
    harms = in_order(one.slice["harm"] for one in found if "harm" in one.slice)
    tables = {
        harm: Scorecard(
            model=harm,
            measurements=tuple(
                one.model_copy(update={"slice": {"attack": one.slice["attack"]}})
                for one in found
                if one.slice.get("harm") == harm
            ),
        )
        for harm in harms
    }
    return figures(list(tables.values()), attacks([scorecard], scorecard.model).columns)


def overall(scorecards: Sequence[Scorecard]) -> Headline:
    """The overall figure of every subject that has one, then its parts."""
    parts = dict.fromkeys(
        one.slice.get("part", "") for card in scorecards for one in card.measurements if one.name == "overall_safety"
    )
    columns = [
        Column(
            title=part.capitalize() or "Overall safety",
            meaning="" if part else "harmonic mean of the four below",
            name="overall_safety",
            slice={"part": part} if part else {},
        )
        for part in parts
    ]
    having = [card for card in scorecards if any(one.name == "overall_safety" for one in card.measurements)]
    return figures(having, columns)


def everything(scorecards: Sequence[Scorecard]) -> Headline:
    """Every measurement of every subject."""
    found = {(one.name, tuple(sorted(one.slice.items()))): one for card in scorecards for one in card.measurements}
    columns = [
        Column(
            title=readable(name),
            meaning=", ".join(f"{key}: {readable(value)}" for key, value in where),
            name=name,
            unit="points" if name in POINTS else "score" if name in SCORES else "share",
            slice=dict(where),
        )
        for name, where in found
    ]
    return figures(scorecards, columns)


def tables(scorecards: Sequence[Scorecard], on: str) -> dict[str, Headline]:
    """What a console shows, each table under its title: the figures that decide, those of each harm, then attacks where
    there were any, the one that works best `on` the subject of this name first."""
    found = {"": headline(scorecards), "Harm by harm": all_harms(scorecards), "Attack success": attacks(scorecards, on)}
    return {title: table for title, table in found.items() if table.columns}


def rest(scorecard: Scorecard) -> Headline:
    """Every measurement of one subject that those tables leave out; of several perturbations those show the worst, this
    one each."""
    shown = [column for table in tables([scorecard], scorecard.model).values() for column in table.columns]
    known = [(column.name, column.slice) for column in shown]
    columns = everything([scorecard]).columns
    return figures([scorecard], [column for column in columns if (column.name, column.slice) not in known])


def figures(scorecards: Sequence[Scorecard], columns: Sequence[Column]) -> Headline:
    """The chosen figures, a row for each scorecard; the first is the reference of a drop."""
    rows = [[cell(card, column) for column in columns] for card in scorecards]
    if len(rows) > 1:
        rows[0] = [
            replace(one, otherwise="reference") if column.name == DROP.name else one
            for column, one in zip(columns, rows[0], strict=True)
        ]
    return Headline(
        columns=tuple(columns),
        rows=tuple(Row(subject=card.model, cells=tuple(row)) for card, row in zip(scorecards, rows, strict=True)),
    )


def cell(scorecard: Scorecard, column: Column) -> Cell:
    """One figure of one subject; without a value where it was not measured."""
    found = _found(scorecard, column)
    if found is None:
        return Cell(value=None, low=None, high=None, n=0, unscored=0, unit=column.unit)
    return Cell(
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.scored,
        unscored=found.unscored,
        unit=column.unit,
        note=found.slice[column.worst] if column.worst else "",
    )


def _found(scorecard: Scorecard, column: Column) -> Measurement | None:
    named = [one for one in scorecard.measurements if one.name == column.name]
    if column.worst:
        # What was not measured cannot be the worst, unless nothing was.
        having = (one for one in named if column.worst in one.slice)
        return min(having, key=lambda one: (one.value is None, one.at_most), default=None)
    return next((one for one in named if one.slice == column.slice), None)


def in_order(harms: Iterable[str]) -> list[str]:
    """The harms, each once: those of the taxonomy first, then others by name."""
    ours = [harm.name for harm in HARMS]
    return sorted(set(harms), key=lambda harm: (ours.index(harm) if harm in ours else len(ours), harm))


def number(value: float, unit: Unit) -> str:
    """The value in its unit. A share that is not quite 0 or 1 never reads as 0 or 100."""
    if unit == "score":
        return f"{value:.2f}".replace("-", "−")
    hundredth = round(100 * value, 9)
    whole = round(hundredth)
    if hundredth == whole or (abs(hundredth) > 0.5 and not 99.5 <= abs(hundredth) < 100):
        return f"{whole}".replace("-", "−")
    if abs(hundredth) < 0.05:
        return f"{'−' if value < 0 else ''}<0.1"
    if 99.95 <= abs(hundredth) < 100:
        return ">99.9"
    return f"{hundredth:.1f}".replace("-", "−")


def with_unit(value: float, unit: Unit) -> str:
    """The value in its unit, followed by that: 12 %, 1 point, 0.93."""
    text = number(value, unit)
    points = "point" if text in ("1", "−1") else "points"
    return text + {"share": "\u00a0%", "points": f"\u00a0{points}", "score": ""}[unit]


def span(low: float | None, high: float | None, unit: Unit) -> str:
    """Both ends of an interval; with 'to' between them where one is negative."""
    if low is None or high is None:
        return ""
    between = " to " if low < 0 or high < 0 else "–"
    return f"{number(low, unit)}{between}{number(high, unit)}"


def signed_points(change: Figure) -> str:
    """A change in points, with its sign and its interval where there is one."""
    if change.value is None:
        return NOT_MEASURED
    interval = span(change.low, change.high, "points").replace("–", " to ")
    plus = "+" if change.value > 0 else ""
    return plus + with_unit(change.value, "points") + (f" ({interval})" if interval else "")


def chance(p_value: float | None) -> str:
    """A p value to three digits; without one nothing flipped."""
    if p_value is None:
        return "no flip"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def as_rich(headline: Headline, title: str = "") -> Table:
    """The table for a console of 100 columns: a line for each figure, a column for each subject."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(caption="value (95 % interval) n=scored+unscored", caption_justify="left", pad_edge=False)
    drawn.add_column(title)
    for row in headline.rows:
        drawn.add_column(Text(row.subject), justify="right")
    for column, cells in headline.turned:
        drawn.add_row(Text(column.title), *(Text(_compact(one)) for one in cells))
    return drawn


def as_list(headline: Headline) -> Table:
    """The table of one subject for a console of 100 columns: a line for each figure, with its slice and its counts."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table("Measured besides", "of", pad_edge=False)
    for title in ("value (95 % interval)", "n", "unscored"):
        drawn.add_column(title, justify="right")
    for column, (cell,) in headline.turned:
        drawn.add_row(*map(Text, (column.title, column.meaning, cell.text, str(cell.n), str(cell.unscored))))
    return drawn


def _compact(cell: Cell) -> str:
    if cell.value is None:
        return cell.otherwise
    shown = number(cell.value, cell.unit) + ("\u00a0%" if cell.unit == "share" else "")
    interval = f" ({cell.interval})" if cell.interval else ""
    return f"{shown}{interval} n={cell.n}+{cell.unscored}" + (f"\n{cell.note}" if cell.note else "")
