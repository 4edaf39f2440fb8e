"""The command line: verbs to functions, what they say, and exit codes. No thinking here."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer

from limbeck.errors import DISK_FULL, FORBIDDEN, GateFailed, InputError, LimbeckError, Stopped, did_you_mean
from limbeck.version import __version__

if TYPE_CHECKING:
    from rich.table import Table

    from limbeck.candidates import Side
    from limbeck.config import RunConfig
    from limbeck.models.context import PrivilegedContext
    from limbeck.records import Scorecard
    from limbeck.report.gates import Gate

Item = TypeVar("Item")
# Prompts without an answer that are told one by one.
SHOWN_UNANSWERED = 5
STOPPED = "stopped; what was kept is not made again: the same command goes on from there"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def _any_verb(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Distil a small language model from aligned teachers, keep its safety, and prove both."""


Recipe = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (quickstart).")]
Folder = Annotated[Path | None, typer.Option(help="The run folder; runs/NAME by default, after the recipe.")]
Override = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, over what the recipe says.")]
ReasoningTokens = Annotated[
    int,
    typer.Option(
        help="Tokens more for a reply of a --model that begins with `<think>`, and what it is scored after.", min=0
    ),
]
Limit = Annotated[int | None, typer.Option(help="Only so many families of each source: a quick trial.")]


@app.command(epilog="Examples:  `limbeck run quickstart`  ·  `limbeck run mine.yaml --set train.learning_rate=1e-4`")
def run(recipe: Recipe, folder: Folder = None, set_: Override = None, limit: Limit = None) -> None:
    """Run all stages, all rounds; what is already made is kept, so the same command goes on after a stop."""
    from limbeck.config import RunConfig
    from limbeck.models.references import MERGED
    from limbeck.pipeline import run as run_pipeline

    config, folder = _read_run(recipe, folder, set_, limit, there=RunConfig.model_fields)
    with _Bars() as bars:
        made = run_pipeline(config, folder, bars)
    bars.show_figures(made.scorecards, on="student")
    bars.say(f"report:  {made.page}\nstudent: {made.student / MERGED}")
    bars.say(f"next:    limbeck show {folder} · change the recipe and run again: only what it touches is redone")
    bars.pass_gates(made.gates)


class Stop(NamedTuple):
    """Where a verb stops: after which rows, what they are, an example of options, and the verb to go on with."""

    rows: str
    meaning: str
    options: str
    next_verb: str


STOPS = {
    "curate": Stop("prompts", "gathered, near-duplicates joined into families, split", "--limit 10", "teach"),
    "teach": Stop("candidates", "all that the teachers reply in the first round", "--set teach.draws=4", "sift"),
    "sift": Stop("lessons", "the replies that the student is to learn, weighed", "--set sift.keep=0.8", "run"),
    "mine": Stop("variants", "what the first round's student got wrong, to be taught next", "--folder trial", "run"),
}


def run_as_far(
    context: typer.Context, recipe: Recipe, folder: Folder = None, set_: Override = None, limit: Limit = None
) -> None:
    """Run as far as the rows of the verb that was typed."""
    from limbeck.pipeline import run_until

    stop = STOPS[context.info_name or ""]
    config, folder = _read_run(recipe, folder, set_, limit)
    with _Bars() as bars:
        made, rows = run_until(config, folder, stage=stop.rows, progress=bars)
    print(f"{len(rows)} {stop.rows} in {made}")
    print(f"next: {shlex.join(['limbeck', stop.next_verb, *sys.argv[2:]])}")


for verb, stop in STOPS.items():
    app.command(
        verb,
        help=f"Run as far as the {stop.rows}: {stop.meaning}.",
        epilog=f"Example:  `limbeck {verb} mine.yaml {stop.options}`",
    )(run_as_far)


@app.command(epilog="Example:  `limbeck report runs/quickstart --set 'report.title=Spring release'`")
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")], set_: Override = None
) -> None:
    """Write the report of a finished run anew, under another title, with more replies or a licence."""
    from limbeck.config import load_config
    from limbeck.pipeline import run as run_pipeline

    for other in set_ or ():
        if not other.startswith("report."):
            raise InputError(f"--set {other}: a report takes report.KEY=VALUE alone; use limbeck run")
    if not (folder / "report.html").is_file():
        raise InputError(f"{folder}: there is no finished run in it; limbeck run makes one")
    config = load_config(folder / "recipe.yaml", set_ or ())
    with _Bars() as bars:
        made = run_pipeline(config, folder, bars, only="report")
    bars.say(f"report:  {made.page}")


@app.command(
    epilog="Examples:  `limbeck check mine.yaml`  ·  `limbeck check mine.yaml --teachers`  ·  "
    "`limbeck check mine.yaml --contexts help_desk --contexts policies/`"
)
def check(
    recipe: Recipe,
    set_: Override = None,
    teachers: Annotated[
        bool, typer.Option("--teachers", help="Ask each teacher some prompts: safety, usefulness, cost side by side.")
    ] = False,
    contexts: Annotated[
        list[str] | None,
        typer.Option(help="A context to try: text, worked examples, a folder, a policy that ships; may be repeated."),
    ] = None,
) -> None:
    """Check a recipe before any compute: spelling, files, needs; and estimate tokens, time and memory."""
    from rich.console import Console

    from limbeck.config import RunConfig
    from limbeck.contexts import informed_by
    from limbeck.estimate import as_rich, estimate
    from limbeck.pace import NotKnown
    from limbeck.verbs import check as check_recipe

    _, config = _read(recipe, set_, there=RunConfig.model_fields)
    told = informed_by(contexts, config) if contexts else []
    for line in check_recipe(config):
        print(line)
    try:
        with Console(stderr=True).status("timing this machine with layers of the models"):
            stages = list(estimate(config))
    except NotKnown as why:
        print(f"not estimated: {why}")
    else:
        Console().print(as_rich(stages))
        for stage in stages:
            if stage.note:
                print(f"{stage.name}: {stage.note}")
    if teachers:
        _compare_teachers(config)
    if told:
        _compare_contexts(config, told)


def _compare_teachers(config: RunConfig) -> None:
    """Shows the teachers side by side. Raises the error of those that could not be asked."""
    from limbeck.candidates import as_rich, compare_teachers, complaint

    bars, sides = _compared(lambda progress: compare_teachers(config, progress=progress))
    bars.show_sides(sides, as_rich(sides))
    if (error := complaint(sides)) is not None:
        raise error


def _compare_contexts(config: RunConfig, told: Sequence[PrivilegedContext]) -> None:
    """Shows what each context changes, the best one first."""
    from limbeck.contexts import advice, as_rich, compare_contexts

    bars, sides = _compared(lambda progress: compare_contexts(config, told, progress=progress))
    bars.show_sides(sides, as_rich(sides))
    bars.say(advice(sides))


def _compared(compare: Callable[[_Bars], list[Side]]) -> tuple[_Bars, list[Side]]:
    """The sides of a comparison that keeps nothing."""
    try:
        with _Bars() as bars:
            return bars, compare(bars)
    except Stopped:
        raise Stopped("stopped; the comparison keeps nothing: the same command begins anew") from None


@app.command(epilog="Example:  `limbeck new mine.yaml`")
def new(path: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml")) -> None:
    """Write a recipe to start from."""
    from limbeck.files import check_new

    check_new(path)
    shipped = _shipped("quickstart").read_text(encoding="utf-8")
    # The first line, a comment, is true of the quickstart alone.
    path.write_text(shipped.partition("\n")[2], encoding="utf-8")
    print(f"wrote {path}; next: limbeck check {path}")


@app.command(
    epilog="Example:  `limbeck evaluate --model smollm2-135m-instruct --prompts mine.jsonl --folder measured`",
)
def evaluate(
    model: Annotated[str, typer.Option(help="Folder, Hub id or short name.")],
    prompts: Annotated[list[Path], typer.Option(help="JSONL, CSV, Parquet: prompt or messages, harm, tier, conduct.")],
    folder: Annotated[Path, typer.Option(help="Where scorecard.json and trials.jsonl go.")],
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter to put on the model.")] = None,
    strength: Annotated[float, typer.Option(help="Times the adapter's effect, 0 to 1.5.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Longest reply, tokens.")] = 256,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "float32",
    reasoning_tokens: ReasoningTokens = 0,
    recipe: Annotated[str, typer.Option(help="Whose evaluate section says what is measured.")] = "quickstart",
    set_: Override = None,
) -> None:
    """Measure any model on prompt files: usefulness, safety, consistency, refusal, and what the recipe adds."""
    from limbeck.models.local import Local, name_of
    from limbeck.models.reasoning import Reasoning
    from limbeck.report.gates import judged
    from limbeck.spec import checked
    from limbeck.verbs import evaluate as evaluate_model
    from limbeck.verbs import unanswered

    reasoning = Reasoning(max_tokens=reasoning_tokens)
    name = name_of(adapter or Path(model))
    subject = checked(
        Local, name=name, model=model, adapter=adapter, strength=strength, dtype=dtype, reasoning=reasoning
    )
    for other in set_ or ():
        if not other.startswith(("evaluate.", "gates.")):
            raise InputError(f"--set {other}: a measurement takes evaluate.KEY=VALUE and gates.KEY=VALUE alone")
    _, config = _read(recipe, set_)
    with _Bars() as bars:
        scorecard = evaluate_model(
            subject, prompts, folder, settings=config.evaluate, max_tokens=max_tokens, progress=bars
        )
    bars.show_scorecard(scorecard)
    bars.console.print(f"{folder / 'scorecard.json'}\n{folder / 'trials.jsonl'}")
    if failed := unanswered(folder):
        print("\n".join(failed[:SHOWN_UNANSWERED]), file=sys.stderr)
        print(f"prompts without an answer, counted as unscored: {len(failed)}", file=sys.stderr)
    bars.pass_gates(judged(config.gates, scorecard))


@app.command(epilog="Example:  `limbeck compare measured/base measured/student`")
def compare(
    before: Annotated[Path, typer.Argument(help="A folder that `evaluate` wrote, or a scorecard.json.")],
    after: Annotated[Path, typer.Argument(help="The same of what it is compared with.")],
    flips: Annotated[Path | None, typer.Option(help="Where every prompt that flipped goes, as JSONL.")] = None,
) -> None:
    """Compare two measurements prompt by prompt; exit code 1 where it got worse or less safe, or was not tested."""
    from rich.console import Console

    from limbeck.files import check_apart, check_new, write_atomically
    from limbeck.report.compare import as_lines, flip_rows
    from limbeck.report.compare import compare as compare_sides

    if flips is not None:
        check_apart(flips, read=[file for side in (before, after) for file in (side, *side.glob("*"))])
        check_new(flips)
    found = compare_sides(before, after)
    if flips is not None:
        write_atomically(flips, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in flip_rows(found)))
    console = Console()
    for line in as_lines(found):
        console.print(line)
    if found.complaint:
        raise GateFailed(found.complaint)


@app.command(epilog="Example:  `limbeck judge --judge refusal --replies replies.jsonl --out graded.jsonl`")
def judge(
    replies: Annotated[Path, typer.Option(help="JSONL, CSV, Parquet: prompt, reply and optionally id.")],
    out: Annotated[Path, typer.Option(help="A new file: the same rows with refused, harm and unscored.")],
    judge: Annotated[
        str, typer.Option(help="A judge by kind, my_file.py:MyJudge, or {kind: ..., key: value}.")
    ] = "refusal",
    profile: Annotated[
        str | None, typer.Option(help="A deployment's thresholds: children, health, education, ... or a YAML file.")
    ] = None,
) -> None:
    """Grade a file of replies."""
    from limbeck.verbs import judge_file

    with _Bars() as bars:
        count, unscored = judge_file(judge, replies, out, profile=profile, progress=bars)
    print(f"{out}: {count} replies graded, {unscored} unscored")


@app.command(
    epilog="Examples:  `limbeck calibrate --labels labelled.jsonl --label refused --folder calibration`  ·  "
    "`limbeck calibrate --judge harm --labels labelled.jsonl --fit --folder calibration`"
)
def calibrate(
    labels: Annotated[Path, typer.Option(help="JSONL, CSV, Parquet: prompt, reply and a label.")],
    folder: Annotated[Path, typer.Option(help="Where calibration.json and calibration.html go.")],
    label: Annotated[str, typer.Option(help="The column: full, partial, yes, true, 1; none, no, false, 0.")] = "label",
    judge: Annotated[
        str, typer.Option(help="A judge by kind, my_file.py:MyJudge, or {kind: ..., key: value}.")
    ] = "refusal",
    harm: Annotated[str | None, typer.Option(help="The judge's score for this harm; refusals without it.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Whose thresholds decide: children, health, education, ... or a YAML file.")
    ] = None,
    catch: Annotated[float, typer.Option(help="The share of positives that the threshold is to catch.")] = 0.9,
    confidence: Annotated[float, typer.Option(help="How sure that has to be.")] = 0.95,
    fit: Annotated[
        bool, typer.Option("--fit", help="A threshold by harm and language (columns of these names): profile.yaml.")
    ] = False,
) -> None:
    """Hold a judge against labels: agreement, calibration, and a threshold that keeps its promise."""
    from limbeck.judges.calibrate import CalibrateSettings
    from limbeck.report.calibration import as_lines
    from limbeck.spec import checked
    from limbeck.verbs import calibrate_file

    settings = checked(CalibrateSettings, harm=harm, catch=catch, confidence=confidence, fit=fit)
    with _Bars() as bars:
        found = calibrate_file(judge, labels, folder, settings, column=label, profile=profile, progress=bars)
        for line in as_lines(found):
            bars.say(line)
    print(f"page: {folder / 'calibration.html'}")
    if found.fitted:
        print(f"use:  --set evaluate.profile={folder / 'profile.yaml'}")


@app.command(
    epilog="Examples:  `limbeck train --lessons chats.jsonl --folder trained`  ·  "
    "`limbeck train --lessons pairs.jsonl --folder trained --set 'train.losses=[cross_entropy, preference]'` "
    "(`limbeck show losses` lists them)"
)
def train(
    lessons: Annotated[
        Path, typer.Option(help="JSONL, CSV, Parquet: prompt/completion, messages, prompt/chosen/rejected.")
    ],
    folder: Annotated[Path, typer.Option(help="Where the adapter and the merged model go.")],
    targets: Annotated[Path | None, typer.Option(help="A folder of DistillKit's: soft targets of the replies.")] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Prompts that choose the strength and measure for constraints.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Whose student, train and strength sections to use.")] = "lessons",
    set_: Override = None,
) -> None:
    """Train from ready lessons alone."""
    from limbeck.models.references import MERGED
    from limbeck.verbs import train as train_file

    _, config = _read(recipe, set_, there=["student"])
    with _Bars() as bars:
        student = train_file(config, lessons, folder, targets=targets, validation=validation, progress=bars)
    print(f"student: {student / MERGED}")


@app.command(
    epilog="Example:  `limbeck export --model smollm2-135m-instruct --adapter runs/quickstart/student/adapter "
    "--strength 0.7 --folder weaker`",
)
def export(
    model: Annotated[str, typer.Option(help="The model the adapter was trained on: folder, Hub id or short name.")],
    adapter: Annotated[Path, typer.Option(help="A PEFT LoRA adapter's folder.")],
    folder: Annotated[Path, typer.Option(help="Where adapter, merged and SHA256SUMS go: new or empty.")],
    strength: Annotated[float, typer.Option(help="Times the adapter's effect, 0 to 1.5; 0 is the base model.")] = 1.0,
) -> None:
    """Merge an adapter into its model, as trained or weaker or stronger."""
    from limbeck.models.references import MERGED
    from limbeck.verbs import export as export_student

    export_student(model, adapter, folder, strength=strength)
    print(f"student: {folder / MERGED}\nnext:    limbeck verify {folder}")


@app.command(epilog="Example:  `limbeck verify runs/quickstart/student`")
def verify(folder: Annotated[Path, typer.Argument(help="A student's folder, with SHA256SUMS in it.")]) -> None:
    """Check that a student's files are those that were written."""
    from limbeck.export.checksums import verify as verify_files

    print(f"{folder}: all {verify_files(folder)} files are as listed")


@app.command(epilog="Examples:  `limbeck chat runs/quickstart`  ·  `limbeck chat --model org/one --model org/other`")
def chat(
    folder: Annotated[Path | None, typer.Argument(help="A finished run: its base, teachers and student.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Folder, Hub id or short name; may be repeated.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter: the first --model with it too.")] = None,
    port: Annotated[int, typer.Option(help="Of 127.0.0.1.", min=1, max=65535)] = 7860,
    max_tokens: Annotated[int, typer.Option(help="Longest reply, tokens.")] = 256,
    reasoning_tokens: ReasoningTokens = 0,
) -> None:
    """Talk to several models side by side in the browser, each reply graded."""
    from limbeck.chat import ChatSettings, served, sides_of_models, sides_of_run
    from limbeck.models.encoder import ModelTools
    from limbeck.models.reasoning import Reasoning
    from limbeck.spec import checked

    settings = checked(ChatSettings, max_tokens=max_tokens)
    if adapter is not None and not model:
        raise InputError("--adapter goes on a model; name that with --model")
    reasoning = Reasoning(max_tokens=reasoning_tokens)
    sides = [*(sides_of_run(folder) if folder is not None else ()), *sides_of_models(model or (), adapter, reasoning)]
    if not sides:
        raise InputError("there is nobody to talk to; name a finished run, or models with --model")
    with served(sides, settings, ModelTools(), port=port) as page:
        print(f"{page.local_url}  (Ctrl-C ends it)", flush=True)
        page.block_thread()


@app.command(
    epilog="Examples:  `limbeck serve runs/quickstart`  ·  "
    "`limbeck serve runs/quickstart --to garak -- --probes dan.Dan_11_0`  ·  "
    "`limbeck serve runs/quickstart -- my-tool --url {url} --model {model}`"
)
def serve(
    model: Annotated[str, typer.Argument(help="A finished run (its student), a folder, Hub id or short name.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            help="After --: a command, {url} and {model} filled in; with --to more of the tool's arguments."
        ),
    ] = None,
    to: Annotated[str | None, typer.Option(help="garak, inspect or lm_eval.")] = None,
    expect: Annotated[
        str | None, typer.Option(help="A regular expression: the command failed where no line it prints has it.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Of 127.0.0.1; any free one.", min=1, max=65535)] = None,
) -> None:
    """Serve a model to other people's tools, or to one for as long as it runs; its exit code is passed on."""
    from limbeck.serve import ask_with, lent, tool_of

    tool = tool_of(to, more=command or (), expect=expect)
    # Whoever ends this process ends the server too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with lent(model, tool, port=port) as found:
            code = 0
            if tool is not None:
                code = ask_with(tool, model=found)
            elif found.server is not None:
                print(f"{found.url} serves {found.model}  (Ctrl-C ends it)", flush=True)
                with suppress(KeyboardInterrupt):
                    found.server.wait()
    except KeyboardInterrupt:
        raise Stopped("stopped; the model is served no more") from None
    raise typer.Exit(code)


@app.command(
    epilog="Examples:  `limbeck show losses`  ·  `limbeck show losses preference`  ·  `limbeck show runs/quickstart ID`"
)
def show(
    what: Annotated[
        str,
        typer.Argument(help="losses, models, judges, dimensions, … (any other word lists them all); a run folder."),
    ],
    record: Annotated[str, typer.Argument(help="One of that list, or the id of a record in that run folder.")] = "",
) -> None:
    """Show what a recipe may name, the stages of a run, or one of either: its settings, its ancestry."""
    from limbeck.verbs import show as show_lines

    for line in show_lines(what, record):
        print(line)


def main() -> None:
    """The command line. What the user can mend is one message without a traceback."""
    from limbeck.processes import leading

    # PEFT's to mend, and ours once no release that we run with has the old names alone; not the user's.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
    # PEFT imports it wherever it is installed, and it then says which faster kernels it lacks.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with leading() as leads:
            if leads:
                app()
    except (KeyboardInterrupt, SystemExit) as end:
        # Typer makes of Ctrl-C, while nothing runs yet, an exit without a word.
        if isinstance(end, SystemExit) and end.code != Stopped.exit_code:
            raise
        print(STOPPED, file=sys.stderr)
        sys.exit(Stopped.exit_code)
    except LimbeckError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        message = _disk_complaint(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        sys.exit(2)


def _disk_complaint(error: Exception) -> str | None:
    """What to do about a disk that takes no more; torch, safetensors and pyarrow say so in errors of their own."""
    where = getattr(error, "filename", None) or "the run folder"
    number = getattr(error, "errno", None)
    if number in DISK_FULL or "No space left on device" in str(error):
        return f"{where}: the disk is full; make room and run the same command again, nothing made so far is lost"
    if number in FORBIDDEN:
        return f"{where}: cannot write here ({os.strerror(number)}); name another place, or let this user write in it"
    return None


def _read(recipe: str, overrides: list[str] | None, *, there: Collection[str] = ()) -> tuple[Path, RunConfig]:
    from limbeck.config import load_config

    path = Path(recipe) if Path(recipe).suffix in (".yaml", ".yml") else _shipped(recipe)
    return path, load_config(path, overrides or (), there=there)


def _read_run(
    recipe: str, folder: Path | None, overrides: list[str] | None, limit: int | None, *, there: Collection[str] = ()
) -> tuple[RunConfig, Path]:
    from limbeck.curate import CurateSettings
    from limbeck.files import check_apart
    from limbeck.spec import checked

    checked(CurateSettings, limit=limit)
    limited = [f"curate.limit={limit}"] if limit is not None else []
    path, config = _read(recipe, [*(overrides or ()), *limited], there=there)
    folder = folder or Path("runs") / path.stem
    check_apart(folder / "recipe.yaml", read=[path])
    return config, folder


def _shipped(name: str) -> Path:
    here = Path(__file__).parent
    # In a checkout the recipes lie beside src/; in a wheel inside the package.
    folders = (here / "recipes", here.parents[1] / "recipes")
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    shipped = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    raise InputError(f"recipe '{name}' is no .yaml file and none of those shipped; {did_you_mean(name, shipped)}")


class _Bars:
    """A bar with rate and time left for each piece of work over two seconds; where there is no terminal a line each
    `line_s` seconds."""

    def __init__(self, *, line_s: float = 60.0) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(f"{task.speed:.1f}/s" if task.speed is not None else "")

        self.line_s = line_s
        self.console = Console()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> _Bars:
        self.progress.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.progress.stop()
        if isinstance(error, KeyboardInterrupt):
            raise Stopped(STOPPED) from None

    def track(self, label: str, items: Iterable[Item], *, total: int) -> Iterator[Item]:
        if total == 0:
            yield from items
            return
        if self.console.is_terminal:
            yield from self.progress.track(items, total=total, description=label)
        else:
            yield from self._told(label, items, total=total)

    def _told(self, label: str, items: Iterable[Item], *, total: int) -> Iterator[Item]:
        """The items, with a line at first and now and then one that says how many there were and how much longer."""
        self.say(f"{label}: {total}")
        began = last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= self.line_s and done < total:
                last = now
                self.say(f"{label}: {done} of {total}, {(now - began) / done * (total - done) / 60:.0f} min left")

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show_figures(self, scorecards: Sequence[Scorecard], on: str) -> None:
        """The figures that decide, of each subject beside the others."""
        from limbeck.report.headline import as_rich, tables

        for title, table in tables(scorecards, on).items():
            self.console.print(as_rich(table, title))

    def show_scorecard(self, scorecard: Scorecard) -> None:
        """All figures of one subject, those that decide first."""
        from limbeck.report.headline import as_list, rest

        self.show_figures([scorecard], on=scorecard.model)
        if (others := rest(scorecard)).columns:
            self.console.print(as_list(others))

    def show_sides(self, sides: Sequence[Side], table: Table) -> None:
        """A comparison, and below it who left something unanswered."""
        self.console.print(table)
        for side in sides:
            if side.unanswered:
                self.say(f"{side.card.model}: {side.unanswered}")

    def pass_gates(self, gates: tuple[Gate, ...]) -> None:
        """Says what came of each gate. Raises GateFailed where one is not passed."""
        from limbeck.report.gates import complaint

        for gate in gates:
            if gate.outcome == "pass":
                self.say(f"gate {gate.text}")
        if said := complaint(gates):
            raise GateFailed(said)


if __name__ == "__main__":
    main()
