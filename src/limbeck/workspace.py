"""The run folder: what was made is kept under a hash of all it was made from, and is never made twice.

<folder>/<stage>-<key>/        the stage's own files; `done.json` is written last, so without it the stage goes on
<folder>/round-0/<stage>-<key>/
<folder>/kept/<stage>.jsonl    replies one by one under the hash of their request, shared by all rounds
<folder>/manifest.json         which stages made the results at the top; while there are none, those of the last run
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar, get_args, get_origin, get_type_hints, overload

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from limbeck.errors import InputError
from limbeck.files import manifest_in, write_atomically
from limbeck.models.references import STUDENT
from limbeck.protocols import Item, Progress, Tools
from limbeck.records import SCHEMA, Record
from limbeck.spec import Spec, fingerprint
from limbeck.version import __version__

SHARD_ROWS = 50_000
KEY_DIGITS = 12
# Of what a recipe made: where one of them is at the top of a folder, a run or a training was finished there.
RESULTS = (STUDENT, "report.html")
# Appended lines reach the kernel at once (a kill loses none) and the disk at least this often.
SYNC_SECONDS = 1.0

Noun = TypeVar("Noun", bound=Record)


class Silent:
    """No progress shown."""

    def track(self, label: str, items: Iterable[Item], *, total: int) -> Iterator[Item]:
        yield from items

    def say(self, line: str) -> None:
        pass


class Part(NamedTuple, Generic[Noun]):
    """The rows of one folder that a predicate keeps."""

    folder: Path
    noun: type[Noun]
    keep: Callable[[Any], bool]


class Index(NamedTuple):
    """Where each of some rows begins: at which byte of its file, and how many rows come before those of each file."""

    files: tuple[Path, ...]
    before_F: NDArray[np.int64]
    byte_N: NDArray[np.int64]

    def place(self, row: int) -> tuple[Path, int]:
        """The file of a row, and the byte it begins at."""
        file = int(np.searchsorted(self.before_F, row, "right")) - 1
        return self.files[file], int(self.byte_N[row])


class Rows(Sequence[Noun], Generic[Noun]):
    """Kept rows of one noun, read from disk each time they are walked or asked for; `key` says what they were made
    from."""

    def __init__(self, key: str, parts: Sequence[Part[Noun]]) -> None:
        self.key = key
        self.parts = tuple(parts)

    def __iter__(self) -> Iterator[Noun]:
        for part in self.parts:
            for file in sorted(part.folder.glob("rows-*.jsonl")):
                for row in read_rows(file, part.noun):
                    if part.keep(row):
                        yield row

    def __len__(self) -> int:
        return len(self._index.byte_N)

    @cached_property
    def _index(self) -> Index:
        files: list[Path] = []
        before_F, byte_N = array("q"), array("q")
        for part in self.parts:
            for file in sorted(part.folder.glob("rows-*.jsonl")):
                files.append(file)
                before_F.append(len(byte_N))
                with file.open("rb") as lines:
                    at = 0
                    for number, line in enumerate(lines, 1):
                        if part.keep is _all or part.keep(_row(file, part.noun, line.decode(), place=str(number))):
                            byte_N.append(at)
                        at += len(line)
        return Index(tuple(files), np.asarray(before_F), np.asarray(byte_N))

    @overload
    def __getitem__(self, index: int) -> Noun: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Noun]: ...
    def __getitem__(self, index: int | slice) -> Noun | Sequence[Noun]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        file, at = self._index.place(range(len(self))[index])
        with file.open("rb") as stream:
            stream.seek(at)
            return _row(file, self.parts[0].noun, stream.readline().decode(), place=f"byte {at}")

    def where(self, **fields: object) -> Rows[Noun]:
        """The rows whose fields have these values."""
        chosen = ",".join(f"{name}={value}" for name, value in sorted(fields.items()))

        def narrowed(keep: Callable[[Any], bool]) -> Callable[[Any], bool]:
            return lambda row: keep(row) and all(getattr(row, name) == fields[name] for name in fields)

        return Rows(_hash(self.key, chosen), [part._replace(keep=narrowed(part.keep)) for part in self.parts])

    def __add__(self, other: Rows[Noun]) -> Rows[Noun]:
        return Rows(_hash(self.key, other.key), self.parts + other.parts)


def _all(row: Record) -> bool:
    return True


def read_rows(file: Path, noun: type[Noun]) -> Iterator[Noun]:
    """The rows of one file of ours. Raises InputError with file and line where one is torn."""
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            yield _row(file, noun, line, place=str(number))


def _row(file: Path, noun: type[Noun], line: str, *, place: str) -> Noun:
    try:
        return noun.read(line)
    except ValueError as error:
        raise InputError(
            f"{file}:{place}: this is no whole {noun.__name__} row; "
            f"delete the folder {file.parent} and run again to make it anew"
        ) from error


class Kept:
    """Lines under keys in one growing file; what was put survives a kill, a torn last line is dropped."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.offsets: dict[str, int] = {}
        self.synced = time.monotonic()
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        with file.open("ab+") as stream:
            stream.seek(0)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self.offsets[line.split(b" ", 1)[0].decode()] = whole
                whole += len(line)
            stream.truncate(whole)
        self.end = whole

    def get(self, key: str) -> str | None:
        """The line kept under the key."""
        if key not in self.offsets:
            return None
        with self.file.open("rb") as stream:
            stream.seek(self.offsets[key])
            return stream.readline().split(b" ", 1)[1].decode().rstrip("\n")

    def sync(self) -> None:
        """Everything put so far is on the disk."""
        with self.file.open("rb") as stream:
            os.fsync(stream.fileno())

    def put(self, lines: Mapping[str, str]) -> None:
        """Append the lines, in one write."""
        rows = {key: f"{key} {line}\n".encode() for key, line in lines.items()}
        with self.file.open("ab") as stream:
            # A write that failed half-way (disk full) left a torn line; this one takes its place.
            stream.truncate(self.end)
            stream.write(b"".join(rows.values()))
            stream.flush()
            if time.monotonic() - self.synced > SYNC_SECONDS:
                os.fsync(stream.fileno())
                self.synced = time.monotonic()
        for key, row in rows.items():
            self.offsets[key] = self.end
            self.end += len(row)


@dataclass(frozen=True, kw_only=True)
class StageStore:
    """What one stage sees of the run folder."""

    key: str
    seed: int
    tools: Tools
    root: Path
    kept: Kept
    judged: Kept
    shown: Progress

    def __reduce__(self) -> tuple[Any, ...]:
        return _helping_store, (self.key, self.seed, self.tools, self.root, self.kept.file, self.judged.file)

    def of_judges(self) -> StageStore:
        return replace(self, kept=self.judged)

    def get(self, key: str) -> str | None:
        return self.kept.get(key)

    def put(self, lines: Mapping[str, str]) -> None:
        self.kept.put(lines)

    def folder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def progress(self, label: str, items: Iterable[Item], *, total: int) -> Iterator[Item]:
        return self.shown.track(label, items, total=total)

    def say(self, line: str) -> None:
        self.shown.say(line)


def _helping_store(key: str, seed: int, tools: Tools, root: Path, *kept: Path) -> StageStore:
    """What another process sees of the stage: no progress is shown, and what it keeps goes to files of its own."""
    mine, judged = (Kept(file.with_suffix(f".{os.environ['RANK']}.jsonl")) for file in kept)
    return StageStore(key=key, seed=seed, tools=tools, root=root, kept=mine, judged=judged, shown=Silent())


class Reached(Exception):
    """The stage to stop after is made: its folder, and its rows."""

    def __init__(self, folder: Path, rows: Rows[Any]) -> None:
        super().__init__(str(folder))
        self.folder = folder
        self.rows = rows


class Workspace:
    """A run folder, or one round's part of it; with `until`, no stage after the first of that name is made, with `only`
    none but the one of that name. It belongs to the `verb` that made it, and a measurement is `of` these values of
    options; paths among them as they are seen from the folder, so that both may be moved.

    With `replaces` earlier results are at its top, and what tells of them stays beside them until others are there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        tools: Tools,
        progress: Progress | None = None,
        until: str | None = None,
        only: str | None = None,
        verb: str = "run",
        of: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.root = folder
        self.seed = seed
        self.tools = tools
        self.progress: Progress = progress or Silent()
        self.until = until
        self.only = only
        self.verb = verb
        self.of = {option: list(values) for option, values in of.items()}
        self.replaces = False
        self.made: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, Kept] = {}

    @contextmanager
    def open(self) -> Iterator[Workspace]:
        """The run folder, held by this process alone until the block ends."""
        try:
            self._check_ours()
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise InputError(
                f"{self.folder}: another run is using this folder; wait for it or choose --folder"
            ) from None
        except FileExistsError:
            raise InputError(f"{self.folder}: this is a file; name a folder") from None
        except OSError as error:
            raise InputError(f"{self.folder}: cannot write here ({error.strerror}); name another folder") from error
        try:
            # Another process may have been here since.
            self._check_ours()
            if manifest_in(self.folder) is None:
                self._write_manifest()
            self.replaces = any((self.folder / name).exists() for name in RESULTS)
            yield self
        finally:
            lock.release()

    def _check_ours(self) -> None:
        """Raises InputError where the folder holds other things than this verb made, or a measurement of something
        else, for it writes over files in it."""
        if (told := manifest_in(self.folder)) is not None:
            maker = told.get("verb", self.verb)
            if maker != self.verb:
                raise InputError(f"{self.folder}: this folder holds what limbeck {maker} made; name another folder")
            held = told.get("of", self.of)
            others = [
                f"another --{option} ({self._shown(held.get(option, []))}) than {self._shown(values)}"
                for option, values in self.of.items()
                if held.get(option, []) != values
            ]
            if others and (self.folder / "scorecard.json").exists():
                raise InputError(
                    f"{self.folder}: the scorecard.json in it is of {' and '.join(others)}; name another --folder, or "
                    "delete this one to measure anew"
                )
        elif self.folder.is_dir() and any(one.name != ".lock" for one in self.folder.iterdir()):
            raise InputError(f"{self.folder}: this is no run folder and not empty; name a new or empty one")

    def _shown(self, values: Sequence[str]) -> str:
        """The values of an option as they are told, paths from here and not from the folder."""
        paths = {one: os.path.normpath(self.folder / one) for one in values}
        return ", ".join(path if os.path.exists(path) else one for one, path in paths.items()) or "none"

    def round(self, number: int) -> Workspace:
        """The part of the run folder for one round."""
        part = copy(self)
        part.folder = self.folder / f"round-{number}"
        return part

    def keep(self, name: str, stage: Callable[..., Any], settings: Spec, *given: Any) -> Any:
        """The stage's result: read if it was made from just this before, else made and written.

        The key hashes the stage's name, Limbeck's version, the settings with the content of files they name, the
        seed, and the keys of what the stage is given; never the rows. Raises Reached after the stage named `until`, and
        InputError for one to be made that is not the `only` one.
        """
        key = _hash(name, __version__, str(self.seed), fingerprint(settings), *map(_key_of, given))[:KEY_DIGITS]
        folder = self.folder / f"{name}-{key}"
        done = folder / "done.json"
        if not done.is_file():
            if self.only not in (None, name):
                raise InputError(
                    f"{self.root}: {name} would be made anew, for another version of Limbeck or another recipe made "
                    "what is there; run its recipe again with limbeck run"
                )
            folder.mkdir(parents=True, exist_ok=True)
            store = StageStore(
                key=key,
                seed=self.seed,
                tools=self.tools,
                root=folder,
                kept=self._kept(name),
                judged=self._kept("judges"),
                shown=self.progress,
            )
            started = time.time()
            _write_result(folder, stage(settings, *given, store=store), self.root)
            seconds = round(time.time() - started, 1)
            _free_memory()
            store.kept.sync()
            store.judged.sync()
            _sync(folder)
            write_atomically(done, json.dumps({"schema": SCHEMA, "stage": name, "key": key, "seconds": seconds}) + "\n")
        self.made[folder.relative_to(self.root).as_posix()] = json.loads(done.read_text())
        if self.only is None and not self.replaces:
            self._write_manifest()
        result = _read_result(folder, key, _returns(stage), self.root)
        if name == self.until:
            raise Reached(folder, result)
        return result

    def publish(self, places: Mapping[str, Path]) -> None:
        """Show results at the top of the run folder: a copy of a file, a link to a folder. The manifest tells of
        them."""
        for name, made in places.items():
            shown = self.root / name
            if made.is_file():
                write_atomically(shown, made.read_text(encoding="utf-8"))
            else:
                _link(shown, made)
        self._write_manifest()

    def _kept(self, name: str) -> Kept:
        if name not in self.kept:
            self.kept[name] = Kept(self.root / "kept" / f"{name}.jsonl")
        return self.kept[name]

    def _write_manifest(self) -> None:
        of = {"of": self.of} if self.of else {}
        write_atomically(
            self.root / "manifest.json",
            json.dumps({"schema": SCHEMA, "verb": self.verb, **of, "seed": self.seed, "stages": self.made}, indent=1),
        )


def _link(shown: Path, made: Path) -> None:
    beside = shown.with_name(f".{shown.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(made, shown.parent))
    os.replace(beside, shown)


def _key_of(given: Any) -> str:
    if isinstance(given, Rows):
        return given.key
    if isinstance(given, Spec):
        return fingerprint(given)
    if isinstance(given, Record):
        # What a stage made is known by what it was made from, wherever its folder lies.
        return getattr(given, "key", None) or _hash(given.line())
    if isinstance(given, tuple):
        return _hash(*map(_key_of, given))
    if given is None:
        return "none"
    raise TypeError(f"a stage cannot be given a {type(given).__name__}")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _returns(stage: Callable[..., Any]) -> Any:
    return get_type_hints(stage)["return"]


def _write_result(folder: Path, result: Any, root: Path) -> None:
    if isinstance(result, Path):
        return
    rows = [_within(result, root)] if isinstance(result, Record) else result
    number, stream = 0, None
    names: list[Path] = []
    for number, row in enumerate(rows):
        if number % SHARD_ROWS == 0:
            if stream is not None:
                _close(stream)
            names.append(folder / f".rows-{number // SHARD_ROWS:05d}.new")
            stream = names[-1].open("w", encoding="utf-8")
        assert stream is not None
        stream.write(row.line() + "\n")
    if stream is not None:
        _close(stream)
    for name in names:
        os.replace(name, folder / f"{name.stem[1:]}.jsonl")


def _sync(folder: Path) -> None:
    """What the stage's libraries wrote is on the disk before the stage counts as done."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _close(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


def _read_result(folder: Path, key: str, returns: Any, root: Path) -> Any:
    if returns is Path:
        return folder
    if get_origin(returns) is not None:
        (noun,) = get_args(returns)
        return Rows(key, [Part(folder, noun, _all)])
    (row,) = read_rows(folder / "rows-00000.jsonl", returns)
    return _outside(row, root)


def _within(record: Record, root: Path) -> Record:
    """Paths below the run folder are written relative to it, so that a run folder can be moved."""
    whole = root.resolve()

    def relative(path: Path) -> Path:
        return path.resolve().relative_to(whole) if path.resolve().is_relative_to(whole) else path

    return _with_paths(record, relative)


def _outside(record: Record, root: Path) -> Record:
    return _with_paths(record, lambda path: path if path.is_absolute() else root / path)


def _with_paths(record: Record, change: Callable[[Path], Path]) -> Record:
    """The record with each path in it, or in a tuple of paths, changed."""
    paths: dict[str, Any] = {}
    for name, value in record:
        if isinstance(value, Path):
            paths[name] = change(value)
        elif isinstance(value, tuple) and value and all(isinstance(one, Path) for one in value):
            paths[name] = tuple(change(one) for one in value)
    return record.model_copy(update=paths)


def _free_memory() -> None:
    """What the stage leaves behind goes before the next one loads its own models."""
    # Models hold cycles, and glibc keeps what was freed for itself: 1.4 GB after a training.
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
