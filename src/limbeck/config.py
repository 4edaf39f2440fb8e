"""The recipe: one YAML, one frozen tree; every mistake in it is reported at once, with its line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from limbeck.curate import CurateSettings
from limbeck.engine import AnyEngine, Here
from limbeck.errors import InputError, did_you_mean, reading
from limbeck.evaluation import EvaluateSettings
from limbeck.evaluation.strength import StrengthSettings
from limbeck.files import replacing
from limbeck.judges.grade import GradeSettings
from limbeck.mine import MineSettings
from limbeck.models.answer import AnswerSettings
from limbeck.models.references import check_is_somewhere
from limbeck.report import ReportSettings
from limbeck.report.gates import Gates
from limbeck.sift import SiftSettings
from limbeck.spec import MayBeFolder, Spec
from limbeck.teach.settings import TeachSettings
from limbeck.training import TrainSettings
from limbeck.training.baselines import AnyBaseline, FilteredSft
from limbeck.training.student import StudentSettings
from limbeck.yaml_file import line_at, owner_at, plain, problems, read_tree


class RunConfig(Spec):
    """A whole run. Each stage's section is its own settings class."""

    seed: int = 7
    rounds: int = Field(default=2, ge=1)
    engine: AnyEngine = Here()
    student: StudentSettings
    curate: CurateSettings = CurateSettings()
    teach: TeachSettings = TeachSettings()
    judges: GradeSettings = GradeSettings()
    sift: SiftSettings = SiftSettings()
    train: TrainSettings = TrainSettings()
    strength: StrengthSettings = StrengthSettings()
    baselines: tuple[AnyBaseline, ...] = (FilteredSft(),)
    answer: AnswerSettings = AnswerSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    mine: MineSettings = MineSettings()
    report: ReportSettings = ReportSettings()
    gates: Gates = Gates()


def load_config(path: Path, overrides: Sequence[str] = (), *, there: Collection[str] = ()) -> RunConfig:
    """The recipe with `section.key=value` overrides. Raises InputError that lists all mistakes with their lines, among
    them the models and files named in the sections `there` that are nowhere."""
    with reading():
        if not path.exists():
            raise InputError(f"{path}: there is no such recipe; write one with `limbeck new {path}`")
    tree = read_tree(path, remedy="`limbeck new` writes a recipe to start from")
    wrong, taken = [], []
    for override in overrides:
        try:
            _override(tree, override)
            taken.append(override)
        except InputError as error:
            wrong.append(str(error))
    settings = plain(tree)
    found = [mistake for name in there for mistake in _absent(settings, (name,))]
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError as error:
        found += problems(error, tree, of=RunConfig)
    placed = [(line_at(tree, loc), loc, message) for loc, message in found]
    wrong = [
        f"{_told_by(taken, loc, place=f'{path}:{line}')}: {'.'.join(map(str, loc))}: {message}"
        for line, loc, message in sorted(placed, key=itemgetter(0))
    ] + wrong
    if wrong:
        raise InputError("\n".join(wrong))
    return config


def save_config(config: RunConfig, path: Path) -> None:
    """The resolved recipe as YAML, every default written out."""
    yaml = YAML()
    yaml.default_flow_style = False
    with replacing(path) as stream:
        yaml.dump(config.model_dump(mode="json"), stream)


def _absent(tree: Any, loc: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each model and file named at this place of the tree or below it that is nowhere, by its own place, and what to
    do."""
    node = tree
    for part in loc:
        node = node.get(part) if isinstance(node, dict) else node[part]
    if isinstance(node, list):
        for at in range(len(node)):
            yield from _absent(tree, (*loc, at))
    elif isinstance(node, dict):
        fields = owner_at(tree, loc, of=RunConfig).model_fields
        for name in [key for key in node if key in fields]:
            if isinstance(node[name], str) and (message := _nowhere(fields[name], node[name])) is not None:
                yield (*loc, name), message
            yield from _absent(tree, (*loc, name))


def _nowhere(field: FieldInfo, value: str) -> str | None:
    """What is wrong with a value that names a model or a file where there is none."""
    kinds = (field.annotation, *get_args(field.annotation))
    words = {word for one in kinds if get_origin(one) is Literal for word in get_args(one)}
    if Path in kinds and value not in words and not Path(value).exists():
        if words:
            return f"'{value}' is no file and none of those shipped; {did_you_mean(value, words)}"
        return f"{value}: there is no such file or folder; paths count from the folder of the command"
    if any(isinstance(mark, MayBeFolder) for mark in field.metadata):
        try:
            check_is_somewhere(value)
        except InputError as error:
            return str(error)
    return None


def _override(tree: Any, override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise InputError(f"--set {override}: write it as section.key=value")
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise InputError(f"--set {override}: the value is no YAML ({str(error).splitlines()[0]})") from error
    place = tree
    *above, last = name.split(".")
    for part in above:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[_position(place, part, override)]
    if isinstance(place, dict):
        place[last] = value
    else:
        place[_position(place, last, override)] = value


def _position(place: Any, part: str, override: str) -> int:
    """The place in a list that a part of an override names."""
    if not isinstance(place, list):
        raise InputError(f"--set {override}: {part} cannot stand below a single value")
    if not part.isdigit() or int(part) >= len(place):
        raise InputError(f"--set {override}: '{part}' is no place in a list of {len(place)}; use 0 to {len(place) - 1}")
    return int(part)


def _told_by(overrides: Sequence[str], loc: tuple[str | int, ...], *, place: str) -> str:
    """Who gave a wrong value: the last override of it or of what it is in, else the recipe at `place`.

    Where a section as a whole is wrong that overrides changed in part, all of them.
    """
    told = [str(part) for part in loc]
    named = [(override.partition("=")[0].split("."), override) for override in overrides]
    if whole := [override for name, override in named if name == told[: len(name)]]:
        return f"--set {whole[-1]}"
    parts = [f"--set {override}" for name, override in named if told == name[: len(told)]]
    return " ".join([place, "with", *parts]) if parts else place
