"""Settings that check themselves, and tables of the things a recipe can name by `kind`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from limbeck.errors import InputError, did_you_mean, reading, sentence

# Files up to this size are hashed whole; larger ones (weights) by size and modification time.
HASHED_WHOLE_BYTES = 64 * 2**20


class Spec(BaseModel):
    """Frozen settings; an unknown key is an error.

    `elsewhere` is what other tools call settings, and what to write here instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    elsewhere: ClassVar[Mapping[str, str]] = {}


class Kind(Spec):
    """A Spec that a recipe picks by `kind`; the members of one table share a base class.

    `shipped` are files of the package that belong to what it means: results made with others are not reused.
    """

    kind: str
    shipped: ClassVar[tuple[Path, ...]] = ()


Member = TypeVar("Member", bound=Kind)
Checked = TypeVar("Checked", bound=Spec)


class Table(Mapping[str, type[Member]], Generic[Member]):
    """The members of one family by kind; `my_file.py:MyClass` is read from outside the package.

    Beside a table stands the field type for one of its members: Annotated[SerializeAsAny[Base],
    BeforeValidator(TABLE.read)], saved with all its settings.
    """

    def __init__(self, family: str, base: Any, *members: type[Member]) -> None:
        self.family = family
        self.base: type[Member] = base
        self.members = {str(member.model_fields["kind"].default): member for member in members}

    def __getitem__(self, kind: str) -> type[Member]:
        return self.members[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def read(self, value: Any) -> Any:
        """One member from its settings (a mapping with `kind`, or the bare kind)."""
        if isinstance(value, self.base):
            return value
        settings = {"kind": value} if isinstance(value, str) else value
        if not isinstance(settings, Mapping) or not isinstance(settings.get("kind"), str):
            raise ValueError(f"a {self.family} needs a kind; use one of: {', '.join(self)}")
        return self._member(settings["kind"]).model_validate(dict(settings))

    def _member(self, kind: str) -> type[Member]:
        if ".py:" in kind:
            return self._outside(kind)
        if kind not in self.members:
            raise ValueError(f"unknown {self.family} '{kind}'; {did_you_mean(kind, self)}")
        return self.members[kind]

    def _outside(self, kind: str) -> type[Member]:
        path, _, name = kind.rpartition(":")
        module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        if not Path(path).is_file() or module_spec is None or module_spec.loader is None:
            raise ValueError(f"'{kind}': there is no file {path}")
        module = importlib.util.module_from_spec(module_spec)
        with reading():
            Path(path).read_bytes()
        try:
            module_spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{_raised_at(path, error)}; mend it") from error
        member = getattr(module, name, None)
        if not (isinstance(member, type) and issubclass(member, self.base)):
            raise ValueError(f"'{kind}': {path} has no {self.base.__name__} called {name}")
        unsaid = {field for field in self.base.__class_vars__ if getattr(member, field, None) is None}
        if missing := sorted(member.__abstractmethods__ | unsaid):
            raise ValueError(f"'{kind}': {name} has no {' and no '.join(missing)}, and a {self.family} needs it")
        return member


def _raised_at(path: str, error: BaseException) -> str:
    """The line of the user's file, or of what it imports and cannot be parsed, and the exception."""
    full = str(Path(path).absolute())
    if isinstance(error, SyntaxError):
        where, line, what = error.filename or full, error.lineno, error.msg
    else:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == full]
        where, line, what = full, lines[-1] if lines else None, str(error).partition("\n")[0]
    place = path if where == full else where
    said = ": ".join(filter(None, (type(error).__name__, what)))
    return f"{place}: {said}" if line is None else f"{place}:{line}: {said}"


def checked(kind: type[Checked], **values: Any) -> Checked:
    """The settings with the values of flags. Raises InputError that names each wrong one by its flag, where it is one
    alone."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        said = [
            f"--{str(one['loc'][0]).replace('_', '-')}: {sentence(one)}" if one["loc"] else sentence(one)
            for one in error.errors()
        ]
        raise InputError("\n".join(said)) from error


def parts(settings: Any) -> Iterator[Spec]:
    """All settings within these, however deep, and they themselves."""
    if isinstance(settings, Spec):
        yield settings
        settings = {name: getattr(settings, name) for name in type(settings).model_fields}
    if isinstance(settings, Mapping):
        settings = tuple(settings.values())
    for part in settings if isinstance(settings, tuple) else ():
        yield from parts(part)


class MayBeFolder:
    """Marks a text field that names a model: a folder's content belongs to what the name means."""


ModelName = Annotated[str, MayBeFolder()]
Share = Annotated[float, Field(ge=0, le=1)]


class Manner:
    """Marks a field that says how something is done and not what comes of it: another value redoes nothing."""


def fingerprint(spec: Spec) -> str:
    """Hash of the settings, with the content of every file or folder in the place of its name."""
    return hashlib.sha256(json.dumps(_meaning(spec)).encode()).hexdigest()


@reading()
def content_hash(path: Path) -> str:
    """Hash of a file, or of a folder's files by their place in it."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder")
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            status = file.stat()
            digest.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
            if status.st_size <= HASHED_WHOLE_BYTES:
                digest.update(file.read_bytes())
            else:
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _meaning(value: Any) -> Any:
    if isinstance(value, Spec):
        fields = {
            name: _field_meaning(getattr(value, name), field)
            for name, field in type(value).model_fields.items()
            if not any(isinstance(mark, Manner) for mark in field.metadata)
        }
        outside = Path(kind.rpartition(":")[0]) if ".py:" in (kind := getattr(value, "kind", "")) else None
        files = [*getattr(value, "shipped", ()), *([outside] if outside is not None else [])]
        return [type(value).__name__, fields, [content_hash(file) for file in files]]
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Path):
        return content_hash(value)
    if isinstance(value, tuple | list):
        return [_meaning(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _meaning(item) for name, item in value.items()}
    return value


def _field_meaning(value: Any, field: FieldInfo) -> Any:
    named_model = value is not None and any(isinstance(mark, MayBeFolder) for mark in field.metadata)
    return content_hash(Path(value)) if named_model and Path(value).is_dir() else _meaning(value)
