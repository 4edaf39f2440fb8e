"""Single verbs on the user's own files: evaluate, train, export, judge, calibrate, check, show."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from limbeck.attacks import ATTACKS
from limbeck.config import RunConfig, save_config
from limbeck.curate import planned
from limbeck.curate.sources import SOURCES, File, Files, read_prompts
from limbeck.engine import ENGINES
from limbeck.errors import InputError, did_you_mean, sentence, writing
from limbeck.evaluation import EVALUATORS, EvaluateSettings, examine, measure
from limbeck.evaluation.strength import choose_strength
from limbeck.export import export as export_stage
from limbeck.export import write_student
from limbeck.files import Row, asked_last, check_apart, check_new, prompt_of, read_each, read_table, write_atomically
from limbeck.judges import JUDGES
from limbeck.judges.calibrate import CalibrateSettings, Calibration, Labelled, calibrate, label_of, refitted
from limbeck.judges.grade import verdicts
from limbeck.judges.profile import AS_JUDGED, Profile, as_yaml, read_profile, spelt
from limbeck.judges.spec import JudgeSpec
from limbeck.losses import LOSSES
from limbeck.models import MODELS
from limbeck.models.answer import AnswerSettings
from limbeck.models.encoder import ModelTools
from limbeck.models.local import Local, check_lengths
from limbeck.models.origin import told, traced_here
from limbeck.models.reasoning import before_answer
from limbeck.models.references import SHORT_NAMES, STUDENT, resolve
from limbeck.needs import check_needs, check_packages, check_reasoning, check_routes, models_beside
from limbeck.perturb import PERTURBATIONS
from limbeck.protocols import Continuation, Exchange, Progress
from limbeck.records import Prompt, Scorecard, Trial, Verdict
from limbeck.report import scorecard_json
from limbeck.report.calibration import calibration_page
from limbeck.report.trials import NOT_ASKED, trial_row
from limbeck.report.verdict import choice
from limbeck.spec import Table, checked, fingerprint
from limbeck.taxonomy import HARMS, Split
from limbeck.teach import routed, wants_reply, who_is_asked
from limbeck.teach.keep import KEEPS
from limbeck.teach.risk import open_ended
from limbeck.teach.settings import RISKS, DrawnRisk, TeachSettings
from limbeck.training.balance import BALANCES
from limbeck.training.baselines import BASELINES
from limbeck.training.brought import Brought, brings_targets, read_targets
from limbeck.training.curriculum import CURRICULA
from limbeck.training.lessons import LessonFile, LessonFiles, lessons_in, read_lessons
from limbeck.training.loop import train as train_stage
from limbeck.training.loop import unfed_line
from limbeck.workspace import Workspace

TABLES: dict[str, Table[Any]] = {
    "attacks": ATTACKS,
    "balances": BALANCES,
    "baselines": BASELINES,
    "curricula": CURRICULA,
    "engines": ENGINES,
    "losses": LOSSES,
    "models": MODELS,
    "judges": JUDGES,
    "keeps": KEEPS,
    "dimensions": EVALUATORS,
    "perturbations": PERTURBATIONS,
    "risks": RISKS,
    "sources": SOURCES,
}

SORTS = ("harmful", "twins", "borderline", "everyday", "multiple choice")
# Of the ids that a beginning could mean.
SHOWN_IDS = 5
# What `check` warns of: the sort of prompt that a split lacks, and what a run then leaves undone.
GAPS: tuple[tuple[Split, str, str], ...] = (
    ("train", "harmful", "nothing teaches the student to refuse"),
    ("train", "twins", "nothing teaches it to answer what only looks harmful"),
    ("validation", "harmful", "the adapter stays as strong as it was trained"),
    ("validation", "twins", "the adapter stays as strong as it was trained"),
    ("exam", "harmful", "safety is not measured"),
    ("exam", "twins", "refusing too much is measured on everyday questions alone"),
)


def evaluate(
    subject: Local,
    files: Sequence[Path],
    folder: Path,
    *,
    settings: EvaluateSettings | None = None,
    max_tokens: int = 256,
    progress: Progress | None = None,
) -> Scorecard:
    """One model measured on prompt files: `scorecard.json`, `trials.jsonl` with one row a prompt in order, and
    `trials_extra.jsonl` with all other trials: attacked, perturbed and repeated ones, and those on a dimension's own
    items."""
    resolve(subject.model)
    answering = checked(AnswerSettings, max_tokens=max_tokens)
    for name in ("trials.jsonl", "trials_extra.jsonl"):
        check_apart(folder / name, read=files)
    settings = settings or EvaluateSettings()
    of = {
        "model": [_seen_from(folder, subject.model)],
        "adapter": [_seen_from(folder, subject.adapter)] if subject.adapter is not None else [],
        "strength": [str(subject.strength)],
        "prompts": [_seen_from(folder, file) for file in files],
    }
    work = Workspace(folder, seed=0, tools=ModelTools(), progress=progress, verb="evaluate", of=of)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    with work.open(), _gone_if_refused(work, made):
        given = work.keep("prompts", read_prompts, Files(paths=tuple(files)))
        trials = work.keep("exam", examine, settings, answering, (subject,), given)
        (scorecard,) = work.keep("scorecards", measure, settings, answering, trials)
        write_atomically(folder / "scorecard.json", scorecard_json(scorecard))
        _write_trials(folder, given, trials)
    return scorecard


def _seen_from(folder: Path, named: Path | str) -> str:
    """The path of what is named as it is seen from the folder; the name itself where nothing is there."""
    return os.path.relpath(named, folder) if Path(named).exists() else str(named)


@contextmanager
def _gone_if_refused(work: Workspace, made: Sequence[Path]) -> Iterator[None]:
    """Takes away the folders that were made for what is then refused, before any reply was kept in them."""
    try:
        yield
    except InputError:
        if made and not any(kept.end for kept in work.kept.values()):
            shutil.rmtree(made[0], ignore_errors=True)
            # Somebody else may have put something beside it since.
            with suppress(OSError):
                for parent in made[1:]:
                    parent.rmdir()
        raise


def _write_trials(folder: Path, prompts: Sequence[Prompt], trials: Sequence[Trial]) -> None:
    asked: dict[str, list[Trial]] = {prompt.id: [] for prompt in prompts}
    extra = []
    for trial in trials:
        if trial.prompt.id in asked and (trial.is_plain or trial.asked == "choices"):
            asked[trial.prompt.id].append(trial)
        else:
            extra.append(trial)
    rows = [trial_row(prompt, asked[prompt.id]) for prompt in prompts]
    write_atomically(folder / "trials.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_atomically(folder / "trials_extra.jsonl", "".join(trial.line() + "\n" for trial in extra))


def unanswered(folder: Path) -> list[str]:
    """Where in the `trials.jsonl` of an evaluation there is no answer and no score, and why."""
    rows = list(read_table(folder / "trials.jsonl"))
    return [
        f"{row.where}: {row.values['why']}"
        for row in rows
        if row.values["finish"] in ("blocked", "failed")
        # Cut off before its answer.
        or (row.values["finish"] == "length" and row.values["why"])
        or (row.values["choices"] and not row.values["scores"] and row.values["why"] != NOT_ASKED)
    ]


def judge_file(
    judge: str, replies: Path, out: Path, *, profile: str | None = None, progress: Progress | None = None
) -> tuple[int, int]:
    """Grades rows of prompt and reply into `out`, a new file; returns how many there are and how many stayed
    unscored. With the profile of a deployment its thresholds say what is harmful."""
    check_apart(out, read=[replies])
    check_new(out)
    named = judge_named(judge)
    rows = list(read_each(replies, _reply_row))
    if not rows:
        raise InputError(f"{replies}: there is no row; give prompt and reply in each")
    exchanges = [_exchange(row, number) for number, row in enumerate(rows)]
    lines, unscored = [], 0
    deployed = AS_JUDGED if profile is None else profile_named(profile)
    for row, verdict in zip(rows, _graded(named, exchanges, progress, profile=deployed), strict=True):
        unscored += verdict.unscored is not None
        said = verdict.model_dump(exclude={"id", "of", "judge", "version"})
        lines.append(json.dumps({**row.values, **said}, ensure_ascii=False) + "\n")
    write_atomically(out, "".join(lines))
    return len(rows), unscored


def _reply_row(row: Row) -> Row:
    """The row, which has a prompt and a reply."""
    for name in ("prompt", "reply"):
        if not isinstance(row.values.get(name), str):
            raise InputError(f"{row.where}: there is no text in '{name}'; give prompt and reply")
    if not isinstance(row.values.get("language") or "", str):
        raise InputError(f"{row.where}: 'language' is {row.values['language']!r}; write it as prompts do, as in de")
    return row


def _labelled_row(row: Row, column: str, settings: CalibrateSettings) -> tuple[Row, bool, str | None]:
    """The row, which has a prompt and a reply, its label, and the harm that the label is of."""
    if column not in row.values:
        raise InputError(f"{row.where}: there is no '{column}'; {_other_column(column, row.values)}")
    harm = row.values.get("harm") if settings.fit and settings.harm is None else None
    if settings.fit and settings.harm is None and not (isinstance(harm, str) and harm):
        raise InputError(f"{row.where}: there is no text in 'harm'; name the harm that the label is of, or give --harm")
    try:
        return _reply_row(row), label_of(row.where, row.values[column]), None if harm is None else spelt(harm)
    except ValueError as error:
        raise InputError(f"{row.where}: {error}") from error


def _other_column(column: str, names: Iterable[str]) -> str:
    """What to do where there is no such column of labels among these names."""
    others = [name for name in names if name not in ("prompt", "reply", "id")]
    return did_you_mean(column, others) if others else "give each row its label, or name their column with --label"


def calibrate_file(
    judge: str,
    labels: Path,
    folder: Path,
    settings: CalibrateSettings,
    *,
    column: str,
    profile: str | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """A judge held against a file of labelled replies: `calibration.json` and `calibration.html` in the folder. With
    the profile of a deployment its thresholds decide.

    Where thresholds are fitted, `profile.yaml` has them in place of those of that profile.
    """
    named = judge_named(judge)
    deployed = AS_JUDGED if profile is None else profile_named(profile)
    names = set[str]().union(*read_each(labels, lambda row: row.values.keys()))
    if names and column not in names:
        raise InputError(f"{labels}: no row has '{column}'; {_other_column(column, names)}")
    labelled = [
        Labelled(_exchange(row, number), label, harm)
        for number, (row, label, harm) in enumerate(read_each(labels, lambda row: _labelled_row(row, column, settings)))
    ]
    if not labelled:
        raise InputError(f"{labels}: there are no rows; label at least one reply")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found = calibrate(settings, labelled, lambda exchanges: list(_graded(named, exchanges, progress, profile=deployed)))
    write_atomically(folder / "calibration.json", found.model_dump_json(indent=2) + "\n")
    write_atomically(folder / "calibration.html", calibration_page(found, labels.name))
    if found.fitted:
        promised = f"{settings.catch:.0%} of the positives with {settings.confidence:.0%} confidence, each by itself"
        remarks = [
            f"Thresholds of the judge {found.judge} ({found.version}), fitted on {labels.name} to catch {promised}.",
            *(f"undecided: {one.harm}, {one.language}: {one.undecided}" for one in found.fitted if one.undecided),
        ]
        write_atomically(folder / "profile.yaml", as_yaml(refitted(deployed, found), remarks=remarks))
    return found


def judge_named(judge: str) -> JudgeSpec:
    """The judge of a flag: a kind, my_file.py:MyJudge, or its settings as {kind: ..., key: value}."""
    try:
        read: JudgeSpec = JUDGES.read(YAML(typ="safe").load(judge) if judge.startswith("{") else judge)
    except YAMLError as error:
        raise InputError(f"--judge: the settings are no YAML ({str(error).splitlines()[0]})") from error
    except ValidationError as error:
        said = [f"--judge: {'.'.join(map(str, one['loc']))}: {sentence(one)}" for one in error.errors()]
        raise InputError("\n".join(said)) from error
    except ValueError as error:
        raise InputError(f"--judge: {error}") from error
    return read


def _exchange(row: Row, number: int) -> Exchange:
    told = row.values
    return Exchange(str(told.get("id", number)), told["prompt"], told["reply"], told.get("language") or "en")


def profile_named(profile: str) -> Profile:
    """The profile of a flag: one that ships, or a YAML file."""
    try:
        return read_profile(profile)
    except ValueError as error:
        raise InputError(f"--profile: {error}") from error


def _graded(
    judge: JudgeSpec, exchanges: Sequence[Exchange], progress: Progress | None, *, profile: Profile = AS_JUDGED
) -> Iterator[Verdict]:
    graded = verdicts([judge], exchanges, ModelTools(), profile=profile)
    return graded if progress is None else progress.track("grading", graded, total=len(exchanges))


def train(
    config: RunConfig,
    lessons: Path,
    folder: Path,
    *,
    targets: Path | None = None,
    validation: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """A student trained from ready lessons alone, with the recipe's student, train and strength sections.

    The prompts of `validation` choose the adapter's strength and are what constraints measure on; without them it is as
    trained. A loss that needs a distribution takes it from a live teacher of the recipe, from the folder `targets` that
    DistillKit captured, or from the rows; without any it is an error, never left out silently.
    """
    teacher = config.teach.live_teacher() if config.train.asks_live else None
    files = LessonFiles(files=(LessonFile(path=lessons), *config.train.extra), supervise=config.train.supervise)
    if (across := config.train.who_needs("spans")) is not None:
        raise InputError(
            f"loss '{across}' learns what a teacher of other tokens says of a reply, which no lessons file has; name "
            "losses without it (--set train.losses=[cross_entropy,decision]), or let the teacher score (limbeck run)"
        )
    needy = config.train.who_needs("distribution") if teacher is None else None
    if targets is not None and needy is None:
        raise InputError(f"{targets}: nothing learns from these; add a loss over distributions, with a cached teacher")
    if targets is None and needy is not None and not brings_targets(files):
        raise InputError(
            f"loss '{needy}' needs a teacher's distribution, a lessons file has replies; name losses without it "
            "(--set train.losses=[cross_entropy,decision]), bring distributions (logprobs in the rows, or --targets), "
            "or name a teacher to be read beside the student "
            "(--set train.teacher=live --set 'teach.teachers=[{kind: local, name: teacher, model: …}]')"
        )
    if needy is not None and config.train.reasoning == "then_answer":
        raise InputError(
            f"train.reasoning is then_answer, and the distributions that loss '{needy}' is brought are of the reply "
            "alone, as it is said without reasoning; use train.reasoning: answer_only, losses without distributions, "
            "or train.teacher: live"
        )
    check_packages(config)
    check_reasoning(config)
    base = config.student.untrained()
    check_lengths(base, _told(files, config))
    if validation is not None:
        _check_tells_apart(validation, _told(files, config))
    work = Workspace(folder, seed=config.seed, tools=ModelTools(), progress=progress, verb="train")
    with work.open():
        if not work.replaces:
            save_config(config, folder / "recipe.yaml")
        given = work.keep("lessons", read_lessons, files)
        prompts = work.keep("validation", read_prompts, Files(paths=(validation,))) if validation is not None else ()
        taught = None
        if needy is not None:
            taught = work.keep("targets", read_targets, Brought(lessons=files, captured=targets), base)
            work.progress.say(f"soft targets for {taught.lessons} of {len(given)} lessons")
        learnt = (given, taught, None, prompts, config.judges, teacher)
        checkpoint = work.keep("checkpoint", train_stage, config.train, config.student, *learnt)
        if line := unfed_line(checkpoint):
            work.progress.say(line)
        if validation is not None:
            checkpoint = work.keep("strength", choose_strength, config.strength, base, (checkpoint,), prompts)
            work.progress.say(f"student: {choice(checkpoint)}")
        made = work.keep("export", export_stage, base, checkpoint)
        work.publish({STUDENT: made / STUDENT})
        save_config(config, folder / "recipe.yaml")
    return folder / STUDENT


def _told(files: LessonFiles, config: RunConfig) -> Iterator[Continuation]:
    """What is read of each lesson, under the place where it stands."""
    reasons = config.train.reasons(config.student.reasoning)
    for row, lesson in lessons_in(files):
        chat, before = lesson.prompt.messages, before_answer(lesson, reasons)
        yield Continuation(row.where, chat, before + (lesson.reply or ""), lesson.ends)
        for text in lesson.rejected if config.train.who_needs("rejected") else ():
            yield Continuation(f"{row.where} (rejected)", chat, before + text, ends=False)


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


def _house_lines(teach: TeachSettings, prompts: Sequence[Prompt]) -> Iterator[str]:
    """How many prompts the house refuses, and what hints at a mistake."""
    if teach.refusals is None:
        return
    refused = who_is_asked(teach, [one for one in prompts if one.split == "train"]).refused
    if refused:
        yield f"house     {len(refused)} prompts to train on are refused in the words of teach.refusals"
    else:
        yield (
            "warning   the house refuses nothing: no prompt to train on is to be refused, is left without a reply, and "
            f"has a harm with words in language {teach.refusals.language} (teach.refusals)"
        )
    harms = {one.harm for one in prompts if one.harm is not None}
    known = harms | {harm.name for harm in HARMS}
    for harm in sorted(teach.refusals.words.keys() - harms):
        hint = "" if harm in known else f"; {did_you_mean(harm, known)}"
        yield f"warning   teach.refusals.words: no prompt has the harm '{harm}'{hint}"


def check(config: RunConfig) -> Iterator[str]:
    """What fits and what not, before any compute. Raises InputError where a loss lacks what it needs."""
    not_checked = set()
    for model in (config.student.untrained(), *config.teach.models, *models_beside(config)):
        not_checked |= set(model.looked_up_later())
        fingerprint(model)
    check_needs(config)
    check_routes(config)
    prompts = planned(config.curate, seed=config.seed)
    asked = [prompt for prompt in prompts if wants_reply(prompt)]
    for teacher, mine in routed(config.teach.teachers, asked):
        yield f"asked     {teacher.name or teacher.kind}: the training split of {len(mine)} prompts"
    if config.teach.second is not None:
        yield f"asked     {config.teach.second}: what no draw of the others could say, where it is for the prompt"
    if config.teach.at_most is not None:
        yield f"asked     {config.teach.at_most} prompts a round at most, of all teachers together"
    if (risk := config.teach.risk) is not None:
        risked = open_ended([one for one in prompts if one.split in ("train", "exam")])
        if isinstance(risk, DrawnRisk):
            teacher = config.teach.risk_teacher(risk)
            drawn = sum(teacher.is_for(one) for one in risked)
            yield f"risk      {risk.teacher}: {risk.draws} draws on each of {drawn} prompts to train on and of the exam"
        else:
            yield f"risk      {risk.judge.kind}: asked about each of {len(risked)} prompts to train on and of the exam"
    yield from _house_lines(config.teach, prompts)
    yield f"student   {config.student.model}"
    for teacher in config.teach.teachers:
        yield f"teacher   {teacher.name or teacher.kind} ({teacher.kind}): {', '.join(sorted(teacher.offers))}"
    for origin in traced_here(config.student.untrained(), config.teach.models):
        if line := told(origin):
            yield f"{'warning' if origin.relation == 'kin' else 'origin':9} {line}"
    if config.teach.mixture is not None:
        yield f"mixture   {', '.join(config.teach.mixture.members)}: soft labels for the replies of all teachers"
    yield f"losses    {', '.join(loss.kind for loss in config.train.losses)}"
    yield f"prompts   {len(prompts)} from {len(config.curate.sources)} source(s)"
    yield from _split_lines(prompts, rounds=config.rounds)
    for what in sorted(not_checked):
        yield f"not checked: {what}"
    yield "all else is met" if not_checked else "all needs are met"


def _split_lines(prompts: Sequence[Prompt], *, rounds: int) -> Iterator[str]:
    """What each split is expected to hold, near-duplicates not yet joined, and what a split without it cannot do."""
    counts = {split: Counter(_sort(prompt) for prompt in prompts if prompt.split == split) for split in get_args(Split)}
    for split, of in counts.items():
        yield f"split     {split}: about {', '.join(f'{of[sort]} {sort}' for sort in SORTS)}"
    if rounds > 1 and not counts["probe"]:
        yield "warning   probe is empty: nothing is mined, and the first round is the last"
    for split, sort, lost in GAPS:
        if not counts[split][sort]:
            yield f"warning   {split} has no {sort}: {lost}"


def _sort(prompt: Prompt) -> str:
    if prompt.choices:
        return "multiple choice"
    if prompt.conduct == "refuse":
        return "harmful"
    if prompt.is_twin:
        return "twins"
    return "borderline" if prompt.conduct == "answer_with_care" else "everyday"


def show(what: str, record: str = "") -> Iterator[str]:
    """The members of a table or all about one of them, the stages of a run folder, or one record with its ancestry."""
    if what in TABLES and record:
        yield from _about(what, record)
        return
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


def _about(table: str, kind: str) -> Iterator[str]:
    """All that is to be known of a member before it is put into a recipe."""
    if (member := TABLES[table].get(kind)) is None:
        raise InputError(f"{table}: there is no '{kind}'; {did_you_mean(kind, TABLES[table])}")
    yield inspect.cleandoc(member.__doc__ or "")
    yield ""
    for word in ("needs", "offers"):
        if said := getattr(member, word, None):
            yield f"{word}: {', '.join(sorted(said))}"
    for name, field in member.model_fields.items():
        if name != "kind":
            yield f"{name}: " + ("to be given" if field.is_required() else repr(field.get_default()))


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph, maxsplit=1)[0]


def _ancestry(folder: Path, record: str) -> Iterator[str]:
    """The row whose id begins with `record`, and those that it names, each once."""
    rows: dict[str, tuple[str, Any]] = {}
    for file in sorted(folder.rglob("rows-*.jsonl")):
        for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            rows.setdefault(row["id"], (file.parent.relative_to(folder).as_posix(), row))
    waiting = [name for name in rows if name.startswith(record)]
    if not waiting:
        raise InputError(f"{folder}: no record's id begins with '{record}'; the ids are in the rows-*.jsonl files")
    if len(waiting) > 1:
        first = ", ".join(sorted(waiting)[:SHOWN_IDS]) + (", …" if len(waiting) > SHOWN_IDS else "")
        raise InputError(f"{folder}: {len(waiting)} ids begin with '{record}': {first}; give more letters")
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
