"""Whether a teacher's weights and the student's have one origin: traits of the teacher can then pass through lessons
that say nothing of them.

After subliminal learning (Cloud et al. 2025, arXiv:2507.14805), which fails where teacher and student began apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from limbeck.models.context import PrivilegedContext
from limbeck.models.endpoint import Endpoint
from limbeck.models.local import Local
from limbeck.models.references import SHORT_NAMES, Reference, files_of, on_disk, resolve
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Store
from limbeck.records import Origin

# Median cosine of the rows from which two matrices have one origin. A change of three quarters of the weights' own size
# takes it this low, 1 / sqrt(1 + .75²); rows of models that began apart are nearly at right angles.
ALIKE = 0.8
# Rows are compared in so many stripes of so many.
STRIPES, STRIPE_ROWS = 16, 64


def trace(student: Local, teachers: tuple[ModelSpec, ...], *, store: Store) -> Iterator[Origin]:
    """The origin of each teacher's weights; a model that is not here yet is fetched."""
    yield from (_origin(student, one, lambda reference: Path(files_of(reference))) for one in teachers)


def traced_here(student: Local, teachers: tuple[ModelSpec, ...]) -> Iterator[Origin]:
    """The same of the models that are on this disk; of others nothing is known."""
    yield from (_origin(student, one, _folder_here) for one in teachers)


def _folder_here(reference: Reference) -> Path | None:
    found = on_disk(reference)
    return None if found is None else Path(found.location)


def told(origin: Origin) -> str:
    """A shared origin and what it means; empty where there is none."""
    if origin.relation not in ("itself", "told", "kin"):
        return ""
    advice = ": measure quirks, with evaluate.teachers" if origin.relation == "kin" else ""
    return f"{origin.teacher}: {origin.why}; {origin.means}{advice}"


def _origin(student: Local, teacher: ModelSpec, find: Callable[[Reference], Path | None]) -> Origin:
    name = teacher.name or f"soft labels ({teacher.kind})"
    if isinstance(teacher, Endpoint) and _called(teacher.model) & _called(student.model):
        # A name says whose weights they began as, and not how they were tuned since.
        return Origin(teacher=name, relation="kin", why="served under the name of the student's own weights")
    if not isinstance(teacher, Local | PrivilegedContext):
        return Origin(teacher=name, relation="unknown", why=f"of a teacher of kind {teacher.kind} no weights are seen")
    ours, theirs = resolve(student.model), resolve(teacher.model)
    if ours.identity == theirs.identity:
        if isinstance(teacher, Local) and teacher.adapter is not None:
            return Origin(teacher=name, relation="kin", why="the student's own weights with an adapter")
        if isinstance(teacher, PrivilegedContext):
            return Origin(teacher=name, relation="told", why="the student's own weights, told a policy")
        return Origin(teacher=name, relation="itself", why="the student's own weights")
    first, second = find(ours), find(theirs)
    if first is None or second is None:
        return Origin(teacher=name, relation="unknown", why="a model is not on this disk yet")
    cosine = row_cosine(first, second)
    if cosine is None:
        return Origin(teacher=name, relation="apart", why="no matrix of the student's shape")
    if cosine < ALIKE:
        return Origin(teacher=name, relation="apart", cosine=cosine, why=f"weights of cosine {cosine:.2f}")
    why = f"weights of the student's origin (median cosine {cosine:.3f})"
    return Origin(teacher=name, relation="kin", cosine=cosine, why=why)


def _called(model: str) -> set[str]:
    """What the model is called, without who published it, in small letters."""
    wheel = SHORT_NAMES.get(model)
    names = [model.partition("@")[0], *([wheel.hub_name] if wheel is not None else [])]
    return {Path(name).name.lower() for name in names}


def row_cosine(first: Path, second: Path) -> float | None:
    """The median cosine between rows of the largest matrix that both folders have under one name and in one shape, as a
    rule the embedding; None where there is none. Rows are taken from all over it."""
    import torch
    from safetensors import safe_open

    ours, theirs = _matrices(first), _matrices(second)
    shared = [(shape, name) for name, (_, shape) in ours.items() if theirs.get(name, (None, None))[1] == shape]
    if not shared:
        return None
    (rows, _), name = max(shared)
    sampled = []
    for file in (ours[name][0], theirs[name][0]):
        with safe_open(file, framework="pt") as tensors:
            matrix = tensors.get_slice(name)
            starts = range(0, rows, max(STRIPE_ROWS, rows // STRIPES))
            sampled.append(torch.cat([matrix[start : start + STRIPE_ROWS].float() for start in starts]))
    return float(torch.cosine_similarity(*sampled, dim=-1).median())


def _matrices(folder: Path) -> dict[str, tuple[Path, tuple[int, int]]]:
    """The file and shape of each matrix in the folder's safetensors, by its name."""
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - this is no mapping
                shape = tensors.get_slice(name).get_shape()
                if len(shape) == 2:
                    found[name] = (file, (shape[0], shape[1]))
    return found
