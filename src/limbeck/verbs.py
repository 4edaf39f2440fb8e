"""Single verbs on the user's own files: evaluate, train, export, judge, check, show."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from limbeck.config import RunConfig
from limbeck.curate.sources import SOURCES, File, Files, read_prompts
from limbeck.errors import InputError, did_you_mean, writing
from limbeck.evaluation import EVALUATORS, EvaluateSettings, examine, measure
from limbeck.evaluation.strength import choose_strength
from limbeck.export import export as export_stage
from limbeck.export import write_student
from limbeck.files import asked_last, check_apart, check_writable, prompt_of, read_table, write_atomically
from limbeck.judges import JUDGES
from limbeck.judges.grade import verdicts
from limbeck.losses import LOSSES
from limbeck.models import MODELS
from limbeck.models.answer import AnswerSettings
from limbeck.models.encoder import ModelTools
from limbeck.models.local import Local, check_lengths
from limbeck.models.references import SHORT_NAMES, resolve
from limbeck.perturb import PERTURBATIONS
from limbeck.pipeline import check_needs, check_packages
from limbeck.protocols import Continuation, Exchange, Progress
from limbeck.records import Prompt, Scorecard, Trial
from limbeck.report import scorecard_json
from limbeck.report.trials import trial_row
from limbeck.spec import Table, checked, fingerprint
from limbeck.teach import routed
from limbeck.training import TrainSettings
from limbeck.training.lessons import LessonFile, LessonFiles, lessons_in, read_lessons
from limbeck.training.loop import train as train_stage
from limbeck.workspace import Workspace

TABLES: dict[str, Table[Any]] = {
    "losses": LOSSES,
    "models": MODELS,
    "judges": JUDGES,
    "dimensions": EVALUATORS,
    "perturbations": PERTURBATIONS,
    "sources": SOURCES,
}


def evaluate(
    subject: Local, files: Sequence[Path], folder: Path, *, max_tokens: int = 256, progress: Progress | None = None
) -> Scorecard:
    """One model measured on prompt files: `scorecard.json`, `trials.jsonl` with one row a prompt in order, and
    `trials_extra.jsonl` with perturbed and repeated ones."""
    resolve(subject.model)
    answering = checked(AnswerSettings, max_tokens=max_tokens)
    for name in ("trials.jsonl", "trials_extra.jsonl"):
        check_apart(folder / name, read=files)
    settings = EvaluateSettings()
    work = Workspace(folder, seed=0, tools=ModelTools(), progress=progress)
    with work.open():
        given = work.keep("prompts", read_prompts, Files(paths=tuple(files)))
        trials = work.keep("exam", examine, settings, answering, (subject,), given)
        (scorecard,) = work.keep("scorecards", measure, settings, trials)
        write_atomically(folder / "scorecard.json", scorecard_json(scorecard))
        _write_trials(folder, given, trials)
    return scorecard


def _write_trials(folder: Path, prompts: Sequence[Prompt], trials: Sequence[Trial]) -> None:
    asked: dict[str, list[Trial]] = {}
    extra = []
    for trial in trials:
        if (trial.asked == "reply" and trial.perturbation is None and trial.sample == 0) or trial.asked == "choices":
            asked.setdefault(trial.prompt.id, []).append(trial)
        else:
            extra.append(trial)
    rows = [trial_row(prompt, asked.get(prompt.id, [])) for prompt in prompts]
    write_atomically(folder / "trials.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_atomically(folder / "trials_extra.jsonl", "".join(trial.line() + "\n" for trial in extra))


def unanswered(folder: Path) -> list[str]:
    """Where in the `trials.jsonl` of an evaluation there is no answer and no score, and why."""
    rows = list(read_table(folder / "trials.jsonl"))
    return [
        f"{row.where}: {row.values['why']}"
        for row in rows
        if row.values["finish"] in ("blocked", "failed") or (row.values["choices"] and not row.values["scores"])
    ]


def judge_file(kind: str, replies: Path, out: Path, *, progress: Progress | None = None) -> tuple[int, int]:
    """Grades rows of prompt and reply into `out`; returns how many there are and how many stayed unscored."""
    check_writable(out)
    check_apart(out, read=[replies])
    rows = list(read_table(replies))
    for row in rows:
        for name in ("prompt", "reply"):
            if not isinstance(row.values.get(name), str):
                raise InputError(f"{row.where}: there is no text in '{name}'; give prompt and reply")
    exchanges = [
        Exchange(str(row.values.get("id", number)), row.values["prompt"], row.values["reply"])
        for number, row in enumerate(rows)
    ]
    try:
        judge = JUDGES.read(kind)
    except ValueError as error:
        raise InputError(f"--judge: {error}") from error
    graded = verdicts([judge], exchanges, ModelTools())
    if progress is not None:
        graded = progress.track("grading", graded, total=len(rows))
    lines, unscored = [], 0
    for row, verdict in zip(rows, graded, strict=True):
        unscored += verdict.unscored is not None
        said = verdict.model_dump(include={"refused", "p_refused", "harm", "unscored", "spans"})
        lines.append(json.dumps({**row.values, **said}, ensure_ascii=False) + "\n")
    write_atomically(out, "".join(lines))
    return len(rows), unscored


def train(
    config: RunConfig,
    lessons: Path,
    folder: Path,
    *,
    validation: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """A student trained from ready lessons alone, with the recipe's student, train and strength sections.

    The prompts of `validation` choose the adapter's strength; without them it is as trained. A loss that needs a
    teacher's distribution is an error, never left out silently.
    """
    if lacking := config.train.who_needs("distribution"):
        raise InputError(
            f"loss '{lacking}' needs a teacher's distribution, a lessons file has replies; "
            "name losses without it: --set train.losses=[cross_entropy,decision]"
        )
    check_packages(config)
    files = LessonFiles(files=(LessonFile(path=lessons), *config.train.extra), supervise=config.train.supervise)
    base = config.student.untrained()
    check_lengths(base, _told(files, config.train))
    if validation is not None:
        _check_tells_apart(validation, _told(files, config.train))
    work = Workspace(folder, seed=config.seed, tools=ModelTools(), progress=progress)
    with work.open():
        given = work.keep("lessons", read_lessons, files)
        checkpoint = work.keep("checkpoint", train_stage, config.train, config.student, given, None, None)
        if validation is not None:
            prompts = work.keep("validation", read_prompts, Files(paths=(validation,)))
            checkpoint = work.keep("strength", choose_strength, config.strength, base, (checkpoint,), prompts)
        made = work.keep("export", export_stage, base, checkpoint)
        work.publish({"student": made / "student"})
    return folder / "student"


def _told(files: LessonFiles, settings: TrainSettings) -> Iterator[Continuation]:
    """What is read of each lesson, under the place where it stands."""
    for row, lesson in lessons_in(files):
        chat = lesson.prompt.messages
        yield Continuation(row.where, chat, lesson.reply or "", lesson.ends)
        for text in lesson.rejected if settings.who_needs("rejected") else ():
            yield Continuation(f"{row.where} (rejected)", chat, text, ends=False)


def _check_tells_apart(validation: Path, told: Iterable[Continuation]) -> None:
    """Raises InputError for a file of prompts by which no strength can be chosen, before anything is trained: it lacks
    harmful prompts or twins, or has one that is taught."""
    held = {asked_last(prompt_of(row).messages): row.where for row in read_table(validation)}
    for one in told:
        if (place := held.get(asked_last(one.messages))) is not None:
            raise InputError(f"{place}: this prompt is taught by {one.id}; validate on prompts that are not taught")
    prompts = list(File(path=validation).prompts())
    for lacking, found in (
        ("harmful prompt (conduct refuse)", any(prompt.conduct == "refuse" for prompt in prompts)),
        ("harmless twin (a harm with tier safe)", any(prompt.is_twin for prompt in prompts)),
    ):
        if not found:
            raise InputError(
                f"{validation}: there is no {lacking}; the adapter's strength is chosen by telling both apart: "
                "add some, or leave --validation out"
            )


def export(model: str, adapter: Path, folder: Path, *, strength: float) -> None:
    """A student's files in a new or empty folder, whole or not at all."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: this is no empty folder; name one that is empty or not there yet")
    if folder.resolve().is_relative_to(adapter.resolve()):
        raise InputError(f"{folder}: this lies inside the adapter's folder {adapter}; name a folder elsewhere")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as hidden:
            made = Path(hidden) / folder.name
            made.mkdir()
            write_student(model, adapter, made, strength=strength)
            os.replace(made, folder)


def check(config: RunConfig) -> Iterator[str]:
    """What fits and what not, before any compute. Raises InputError where a loss lacks what it needs."""
    labellers = (config.teach.soft_labels,) if config.teach.soft_labels is not None else ()
    on_hub = set()
    for model in (config.student.untrained(), *config.teach.teachers, *labellers):
        if (named := getattr(model, "model", None)) is not None and resolve(named).is_on_hub:
            on_hub.add(named)
        fingerprint(model)
    check_needs(config)
    prompts = [prompt for source in config.curate.sources for prompt in source.prompts()]
    asked = [prompt for prompt in prompts if prompt.lesson == "reply" and not prompt.choices]
    for teacher, mine in routed(config.teach.teachers, asked):
        yield f"asked     {teacher.name or teacher.kind}: the training split of {len(mine)} prompts"
    if config.teach.at_most is not None:
        yield f"asked     {config.teach.at_most} prompts a round at most, of all teachers together"
    yield f"student   {config.student.model}"
    for teacher in config.teach.teachers:
        yield f"teacher   {teacher.name or teacher.kind} ({teacher.kind}): {', '.join(sorted(teacher.offers))}"
    yield f"losses    {', '.join(loss.kind for loss in config.train.losses)}"
    yield f"prompts   {len(prompts)} from {len(config.curate.sources)} source(s)"
    for named in sorted(on_hub):
        yield f"not checked: {named} is on the Hub, and is looked up when it is first used"
    yield "all else is met" if on_hub else "all needs are met"


def show(what: str, record: str = "") -> Iterator[str]:
    """The members of a table, the stages of a run folder, or one record with its ancestry."""
    if what in TABLES:
        for kind, member in TABLES[what].items():
            yield f"{kind:22} {_first_sentence(member.__doc__ or '')}"
        for name, wheel in SHORT_NAMES.items() if what == "models" else ():
            yield f"{name:22} A short name for a `model`: {wheel.hub_name} from {wheel.requirement} ({wheel.licence})."
        return
    folder = Path(what)
    if not (folder / "manifest.json").is_file():
        raise InputError(f"'{what}' is no run folder and no table; {did_you_mean(what, TABLES)}")
    if record:
        yield from _ancestry(folder, record)
        return
    for place, stage in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["stages"].items():
        yield f"{place:44} {stage['seconds']:8.1f} s"


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph, maxsplit=1)[0]


def _ancestry(folder: Path, record: str) -> Iterator[str]:
    """The rows whose id begins with `record`, and those that they name, each once."""
    rows: dict[str, tuple[str, Any]] = {}
    for file in sorted(folder.rglob("rows-*.jsonl")):
        for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            rows.setdefault(row["id"], (file.parent.relative_to(folder).as_posix(), row))
    waiting = [name for name in rows if name.startswith(record)]
    if not waiting:
        raise InputError(f"{folder}: no record's id begins with '{record}'; the ids are in the rows-*.jsonl files")
    seen: set[str] = set()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        place, row = rows[name]
        yield f"{place}\n{json.dumps(row, ensure_ascii=False, indent=1)}"
        waiting += [word for word in _words(row) if word in rows]


def _words(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _words(value)
    elif isinstance(node, list):
        for value in node:
            yield from _words(value)
    elif isinstance(node, str):
        yield node
