"""An import goes to a lower floor or stays in its own folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import limbeck

PACKAGE = Path(limbeck.__file__).parent
FLOORS = (
    ("records", "protocols", "taxonomy", "spec", "stats", "errors", "files", "yaml_file", "processes", "version"),
    ("models", "judges", "losses", "targets", "attacks", "perturb"),
    ("curate", "teach", "sift", "training", "evaluation", "mine", "report", "export"),
    (
        "pipeline",
        "needs",
        "config",
        "workspace",
        "verbs",
        "chat",
        "serve",
        "estimate",
        "pace",
        "fit_judges",
        "candidates",
        "contexts",
        "engine",
        "cluster",
    ),
    ("cli",),
)
FLOOR_OF = {part: number for number, parts in enumerate(FLOORS) for part in parts}
# Ground and house floors are single files that make up one room; folders of one floor do not meet.
OPEN_FLOORS = (0, 3)


def parts_imported(source: str) -> Iterator[str]:
    """The top-level parts of limbeck that a module imports, those for type checking and inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "limbeck":
            names = [f"limbeck.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'relative.' * bool(node.level)}{node.module}"]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "limbeck" and rest:
                yield rest.split(".")[0]
            elif first == "relative":
                yield name


def complaints(name: str, source: str) -> list[str]:
    """`losses/bad.py imports evaluation` for each import of a module that goes up or across."""
    own = Path(name).parts[0].removesuffix(".py")
    found = []
    for part in parts_imported(source):
        if part not in FLOOR_OF:
            found.append(f"{name} imports {part}, which has no floor")
        elif part != own and not (
            FLOOR_OF[part] < FLOOR_OF[own] or (FLOOR_OF[part] == FLOOR_OF[own] and FLOOR_OF[own] in OPEN_FLOORS)
        ):
            found.append(f"{name} imports {part}")
    return found


MODULES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__.py"])
def test_every_import_goes_to_a_lower_floor_or_stays_in_its_own_folder(name: str) -> None:
    found = complaints(name, (PACKAGE / name).read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


def test_every_module_stands_on_a_floor() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__"} <= set(FLOOR_OF)


def test_an_import_that_goes_up_or_across_is_named_with_its_file() -> None:
    up = "from limbeck.evaluation.spec import Evaluator"
    across = "import limbeck.models.local"
    for_types = "if TYPE_CHECKING:\n    from limbeck.training import loop"
    late = "def f():\n    from limbeck import teach"
    assert complaints("losses/bad.py", up) == ["losses/bad.py imports evaluation"]
    assert complaints("losses/bad.py", across) == ["losses/bad.py imports models"]
    assert complaints("losses/bad.py", for_types) == ["losses/bad.py imports training"]
    assert complaints("losses/bad.py", late) == ["losses/bad.py imports teach"]
    assert (
        complaints("losses/good.py", "from limbeck.losses.spec import Loss\nfrom limbeck.protocols import TopK") == []
    )
