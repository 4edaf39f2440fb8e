"""READ THIS FIRST: the whole loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from limbeck.config import RunConfig, save_config
from limbeck.curate import curate, split_counts
from limbeck.errors import InputError
from limbeck.evaluation import examine, measure
from limbeck.evaluation.strength import choose_strength
from limbeck.export import export
from limbeck.judges.grade import grade
from limbeck.mine import mine, vary
from limbeck.models.answer import answer
from limbeck.models.origin import told, trace
from limbeck.models.references import STUDENT
from limbeck.models.spec import ModelSpec
from limbeck.needs import check_asked, check_needs, check_routes, models_beside
from limbeck.protocols import Progress
from limbeck.records import Candidate, Checkpoint, Lesson, Prompt, Record, Risk, Scorecard, Verdict
from limbeck.report import report
from limbeck.report.gates import Gate, judged
from limbeck.report.verdict import choice
from limbeck.sift import sift
from limbeck.teach import teach
from limbeck.teach.risk import draw_risk, guard_risk
from limbeck.teach.score import score, unlabelled_line
from limbeck.teach.settings import DrawnRisk
from limbeck.teach.spans import score_spans
from limbeck.training.baselines import baseline
from limbeck.training.lessons import LessonFiles, read_lessons
from limbeck.training.loop import train, unfed_line
from limbeck.workspace import Reached, Rows, Workspace


class Run(NamedTuple):
    """What a run made: the report page, the folder of the student's files, the figures of all subjects, and how the
    student's stand to the gates."""

    page: Path
    student: Path
    scorecards: Sequence[Scorecard]
    gates: tuple[Gate, ...]


def run(config: RunConfig, folder: Path, progress: Progress | None = None, *, only: str | None = None) -> Run:
    """All rounds: what the student gets wrong in one round is taught in the next.

    With `only` no other stage than this one is made anew. Raises InputError where one would have to be.
    """
    check_routes(config)
    with config.engine.tools() as tools:
        return _loop(config, Workspace(folder, seed=config.seed, tools=tools, progress=progress, only=only))


def _loop(config: RunConfig, work: Workspace) -> Run:
    """The whole of it. Each stage is kept, and not made again from the same."""
    check_needs(config)
    if work.only is None and work.until != "prompts":
        check_asked(config)
    with work.open():
        if work.only is None and not work.replaces:
            save_config(config, work.folder / "recipe.yaml")
        base = config.student.untrained()
        if work.only is None and work.until is None:
            for model in (base, *config.teach.models, *models_beside(config)):
                model.fetch()
        prompts = work.keep("prompts", curate, config.curate)
        for line in split_counts(prompts):
            work.progress.say(line)
        origins = work.keep("origins", trace, base, config.teach.models)
        for line in filter(None, map(told, origins)):
            work.progress.say(line)
        to_teach, validation = prompts.where(split="train"), prompts.where(split="validation")
        exam = prompts.where(split="exam")
        draws: list[tuple[Rows[Candidate], Rows[Verdict]]] = []
        risked: list[Rows[Risk]] = []
        own: list[Rows[Lesson]] = []
        if config.train.extra:
            files = LessonFiles(files=config.train.extra, supervise=config.train.supervise)
            own.append(work.keep("extra", read_lessons, files, validation + exam))
        rounds: list[Rows[Lesson]] = []
        variants: list[Rows[Prompt]] = []
        checkpoints: list[Checkpoint] = []
        targets = None
        for number in range(config.rounds):
            at = work.round(number)
            drawn = at.keep("candidates", teach, config.teach, base, to_teach)
            verdicts = at.keep("verdicts", grade, config.judges, config.teach.drawn_until, drawn)
            risks = _risks(config, at, "risks", to_teach)
            lessons = at.keep("lessons", sift, config.sift, to_teach, drawn, verdicts, risks)
            reasons = config.train.reasons(config.student.reasoning)
            live = config.teach.live_teacher() if config.train.asks_live else None
            if config.train.who_needs("spans"):
                targets = at.keep("spans", score_spans, config.teach, base, lessons, targets)
            elif config.train.who_needs("distribution") and live is None:
                targets = at.keep("targets", score, config.teach, base, lessons, targets, reasons)
            if unlabelled := unlabelled_line(targets):
                work.progress.say(unlabelled)
            before = checkpoints[-1] if checkpoints else None
            checkpoint = at.keep(
                "checkpoint",
                train,
                config.train,
                config.student,
                sum(own, lessons),
                targets,
                before,
                validation,
                config.judges,
                live,
            )
            if unfed := unfed_line(checkpoint):
                work.progress.say(unfed)
            draws.append((drawn, verdicts))
            risked += [risks] if risks is not None else []
            rounds.append(lessons)
            checkpoints.append(checkpoint)
            if number + 1 < config.rounds:
                student = config.student.trained("student", checkpoint.folder)
                trials = at.keep("trials", answer, config.mine.answer, student, prompts.where(split="probe"))
                failures = at.keep("failures", mine, config.mine, trials)
                variants.append(at.keep("variants", vary, config.mine, config.curate, failures, validation + exam))
                taught_next = variants[-1].where(split="train")
                if not taught_next:
                    break
                to_teach = to_teach + taught_next
        chosen = work.keep("strength", choose_strength, config.strength, base, tuple(checkpoints), validation)
        work.progress.say(f"student: {choice(chosen)}")
        subjects: list[ModelSpec] = [base]
        for plain in config.baselines:
            made = work.keep(
                plain.name, baseline, config.train, config.student, plain, (*rounds, *own), checkpoints[-1]
            )
            subjects.append(config.student.trained(plain.name, made.folder))
        subjects.append(config.student.trained("student", chosen.folder))
        examined = config.teach.teachers if config.evaluate.teachers else ()
        subjects.extend(examined)
        caution = _risks(config, work, "exam_risks", exam)
        trials = work.keep("exam", examine, config.evaluate, config.answer, tuple(subjects), exam, caution)
        scorecards = work.keep("scorecards", measure, config.evaluate, config.answer, trials, examined)
        exported = work.keep("export", export, base, chosen)
        risked += [caution] if caution is not None else []
        learnt = (
            examined,
            tuple(draws),
            tuple(rounds),
            tuple(variants),
            tuple(checkpoints),
            targets,
            origins,
            tuple(risked),
            config.teach.models,
            config.teach.drawn_until,
        )
        page = work.keep("report", report, config.report, config.gates, base, chosen, scorecards, trials, *learnt)
        work.publish({STUDENT: exported / STUDENT} | {file.name: file for file in (page / "page").iterdir()})
        save_config(config, work.folder / "recipe.yaml")
        cards = {card.model: card for card in scorecards}
        # Of an exam without prompts there are no figures, and no gate is passed.
        gates = judged(config.gates, cards.get(chosen.name, Scorecard(model=chosen.name, measurements=())))
        return Run(work.folder / "report.html", work.folder / STUDENT, scorecards, gates)


def _risks(config: RunConfig, at: Workspace, name: str, prompts: Rows[Prompt]) -> Rows[Risk] | None:
    """The risks of these prompts, drawn or said by a guard; None where the recipe leaves risk to the conduct."""
    if (risk := config.teach.risk) is None:
        return None
    found: Rows[Risk] = (
        at.keep(name, draw_risk, risk, config.teach.risk_teacher(risk), prompts)
        if isinstance(risk, DrawnRisk)
        else at.keep(name, guard_risk, risk, prompts)
    )
    return found


def run_until(
    config: RunConfig, folder: Path, *, stage: str, progress: Progress | None = None
) -> tuple[Path, Rows[Record]]:
    """The first round as far as this stage: its folder and its rows. `run` goes on from there."""
    if stage == "variants" and config.rounds == 1:
        raise InputError(
            "rounds is 1, and what goes wrong in the last round is not mined; "
            "set rounds to 2 or more, in the recipe or with --set rounds=2"
        )
    try:
        with config.engine.tools() as tools:
            _loop(config, Workspace(folder, seed=config.seed, tools=tools, progress=progress, until=stage))
    except Reached as reached:
        return reached.folder, reached.rows
    raise ValueError(f"no stage of the loop is called '{stage}'")
