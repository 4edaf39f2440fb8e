"""Settings in a YAML file of the user's: every mistake in them is told with its line and what was allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from limbeck.errors import InputError, did_you_mean, sentence, text_in
from limbeck.spec import Kind, Spec


def read_tree(path: Path, *, remedy: str) -> Any:
    """The mapping in a YAML file, whose parts know their lines. Raises InputError where there is none, with the
    remedy."""
    try:
        tree = YAML().load(text_in(path))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise InputError(f"{path}:{line}: this is no YAML: {error.problem}") from error
    except YAMLError as error:
        raise InputError(f"{path}: this is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        what = "empty" if tree is None else "a list" if isinstance(tree, list) else f"{tree!r:.40}"
        raise InputError(f"{path} is {what}, not `key: value`; {remedy}")
    return tree


def plain(node: Any) -> Any:
    """The tree without its lines."""
    if isinstance(node, dict):
        return {str(key): plain(value) for key, value in node.items()}
    return [plain(item) for item in node] if isinstance(node, list) else node


def problems(error: ValidationError, tree: Any, *, of: type[Spec]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each mistake in the settings `of` a class as its place in the tree and a sentence."""
    # Of what is wrong with a key of one's own pydantic adds that it is a key.
    places = [tuple(part for part in problem["loc"] if part != "[key]") for problem in error.errors()]
    for loc, problem in zip(places, error.errors(), strict=True):
        if problem["type"] == "extra_forbidden":
            owner, name = owner_at(tree, loc[:-1], of=of), str(loc[-1])
            ours = owner.elsewhere.get(name)
            yield loc, f"unknown; {f'here it is {ours}' if ours else did_you_mean(name, owner.model_fields)}"
        # A list counts as too short when its items are wrong: those are told already.
        elif problem["type"] != "too_short" or not any(loc == place[: len(loc)] != place for place in places):
            yield loc, sentence(problem)


def line_at(tree: Any, loc: tuple[str | int, ...]) -> int:
    """The line of the deepest part of a place that stands in the file."""
    line = 1
    node = tree
    for part in loc:
        try:
            marks = node.lc
            positions = marks.key(part) if isinstance(part, str) else marks.item(part)
            line, node = positions[0] + 1, node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def owner_at(tree: Any, loc: tuple[str | int, ...], *, of: type[Spec]) -> type[Spec]:
    """The settings class whose keys stand at this place of a tree `of` settings: by its `kind` where it has one, else
    by its section."""
    node: Any = tree
    owner = of
    for part in loc:
        node = node[part]
        if isinstance(part, str) and part in owner.model_fields:
            said = owner.model_fields[part].annotation
            inside = [one for one in (said, *get_args(said)) if isinstance(one, type) and issubclass(one, Spec)]
            owner = inside[0] if inside else Spec
        if isinstance(node, dict) and "kind" in node:
            # An adapter's kind stands in no table, nor does one from outside.
            other = owner if isinstance(part, str) else Kind
            owner = next((kind for kind in _kinds(Kind) if kind.model_fields["kind"].default == node["kind"]), other)
    return owner


def _kinds(base: type[Kind]) -> Iterator[type[Kind]]:
    for member in base.__subclasses__():
        yield member
        yield from _kinds(member)
