"""A model for the tools of others: behind a server on this machine for as long as a tool asks it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple
from urllib.request import ProxyHandler, build_opener

from limbeck.errors import InputError, check_installed, did_you_mean
from limbeck.files import read_table
from limbeck.models.references import MERGED, STUDENT, Reference, files_of, load_own_tokenizer, resolve

HOST = "127.0.0.1"
# Seconds that a server may take to load its model, that it is given to end, and between two looks at it.
LOADING_S = 600.0
ENDING_S = 10.0
LOOKING_S = 0.2
# Lines of a server's own words that are shown where it did not start.
LAST_LINES = 5
# A key that the server does not ask for, and that clients cannot do without.
NO_KEY = "none"
# garak sends n, presence_penalty and seed, which transformers' server refuses, and would cut replies at the first "#".
GARAK = {"uri": "{url}", "api_key": NO_KEY, "suppressed_params": ["n", "presence_penalty", "seed", "stop"]}
# What it prints of its probes, as it has resolved what was asked for, and of its report; colours may stand between.
GARAK_QUEUE = re.compile(r"queue of (?:\x1b\[\d+m)*probes:(?:\x1b\[0m)? +(.+)")
GARAK_REPORT = re.compile(r"reporting to (.+\.jsonl)$")
GARAK_SKIPPED = re.compile(r"detector load failed: (?:detectors\.)?(\S+), skipping")


class Tool(NamedTuple):
    """How a tool is called, with {url} and {model} where these go, and how it shows that the model was asked: a regular
    expression for a line that it prints only then, and `missing`, which tells from all lines printed what it did not
    examine, or None. One that `needs_server` does not load the model itself; `keys` are environment variables."""

    command: tuple[str, ...]
    proof: str | None = None
    missing: Callable[[Sequence[str]], str | None] | None = None
    needs_server: bool = True
    keys: Mapping[str, str] = {}


def garak_missed(printed: Sequence[str]) -> str | None:
    """The probes of garak's queue that its report has no scored reply of, and the detectors that it could not load, in
    words; None without any.

    It ends with 0 where a detector is missing, and drops the rest of its queue where a probe has no other, or where no
    reply came. Raises InputError where the report cannot be read.
    """
    queue = [name for line in printed for found in GARAK_QUEUE.findall(line) for name in found.split(", ")]
    reports = [Path(file) for line in printed for file in GARAK_REPORT.findall(line.rstrip())]
    if not queue or not reports:
        return "it named no probes, or no report"
    rows = (row.values for report in reports for row in read_table(report))
    # Older versions call it `total`.
    examined = {
        row.get("probe")
        for row in rows
        if row.get("entry_type") == "eval" and row.get("total_evaluated", row.get("total", 0)) > 0
    }
    missed = [name for name in queue if name not in examined]
    skipped = dict.fromkeys(name for line in printed for name in GARAK_SKIPPED.findall(line))
    lacking = [f"{', '.join(map(str, reports))} has no scored reply to {', '.join(missed)}"] if missed else []
    if skipped:
        lacking.append(f"it could not load {', '.join(skipped)}")
    return "; ".join(lacking) or None


TOOLS: Mapping[str, Tool] = {
    "garak": Tool(
        (
            "garak", "--target_type", "openai.OpenAICompatible", "--target_name", "{model}",
            "--generator_options", json.dumps({"openai": {"OpenAICompatible": GARAK}}),
        ),
        missing=garak_missed,
    ),
    "inspect": Tool(
        ("inspect", "eval", "--model", "openai-api/limbeck/{model}"),
        proof=r"\d tokens \[",
        keys={"LIMBECK_BASE_URL": "{url}", "LIMBECK_API_KEY": NO_KEY},
    ),
    "lm_eval": Tool(
        ("lm_eval", "run", "--model", "hf", "--model_args", "pretrained={model}"),
        # A row of its table: some versions of the library that draws it leave the names of columns out.
        proof=r"^\|.*\| *± *\|",
        needs_server=False,
    ),
}  # fmt: skip


class Lent(NamedTuple):
    """A model as a tool gets it: what it is called, which is its folder, and where it is served the address, up to /v1,
    and the server's process."""

    model: str
    url: str | None = None
    server: subprocess.Popen[bytes] | None = None


def tool_of(name: str | None, *, more: Sequence[str] = (), expect: str | None = None) -> Tool | None:
    """The known tool of this name with more arguments, or without a name the command that these are; None without both.

    `expect` takes the place of its own proof and of `missing`. Raises InputError for an unknown name, an `expect` that
    is no regular expression, and one without a command.
    """
    if name is not None and name not in TOOLS:
        raise InputError(f"--to {name}: {did_you_mean(name, TOOLS)}, or give a command of your own after --")
    if expect is not None:
        try:
            re.compile(expect)
        except re.error as error:
            raise InputError(f"--expect {expect}: is no regular expression ({error})") from error
        if name is None and not more:
            raise InputError("--expect looks at what a command prints; give one after --, or leave it out")
    if name is not None:
        known = TOOLS[name]
        called = known._replace(command=(*known.command, *more))
        return called if expect is None else called._replace(proof=expect, missing=None)
    keys = {"OPENAI_BASE_URL": "{url}", "OPENAI_API_KEY": NO_KEY}
    return Tool(tuple(more), proof=expect, keys=keys) if more else None


@contextmanager
def lent(name: str, tool: Tool | None, *, port: int | None = None) -> Iterator[Lent]:
    """A model, or the student of a finished run, for a tool: behind transformers' own server until the block ends, or
    its folder alone for a tool that needs no server.

    Raises InputError where the server's packages are missing, the port cannot be used, the server does not start or
    ends within the block, and for a model without a chat template, since a server is asked in chats.
    """
    student = Path(name) / STUDENT / MERGED
    reference = resolve(str(student) if student.is_dir() else name)
    if tool is not None and not tool.needs_server:
        yield Lent(_folder(reference))
        return
    for package in ("fastapi", "uvicorn"):
        check_installed(package, wanted_by="limbeck serve", requirement="'limbeck[serve]'")
    if port is not None:
        check_free(port)
    if load_own_tokenizer(reference).chat_template is None:
        raise InputError(f"model '{name}' has no chat template, and a server is asked in chats; name one that has")
    with _server(_folder(reference), port=port or _free_port()) as model:
        yield model


def _folder(reference: Reference) -> str:
    return str(Path(files_of(reference)).absolute())


@contextmanager
def _server(folder: str, *, port: int) -> Iterator[Lent]:
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", folder]
    # What it needs is in the folder.
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    with TemporaryFile() as log:
        # In a session of its own: a Ctrl-C is for the tool.
        server = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            stdout=log,
            stderr=log,
            env=offline,
            start_new_session=True,
        )
        try:
            if why := _did_not_start(server, f"http://{HOST}:{port}/health"):
                raise InputError("\n".join([f"the server for {folder} {why}; it said:", *_last_lines(log)]))
            yield Lent(folder, f"http://{HOST}:{port}/v1", server)
            if server.poll() is not None:
                raise InputError("\n".join([f"the server for {folder} ended before its time:", *_last_lines(log)]))
        finally:
            server.terminate()
            try:
                server.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _did_not_start(server: subprocess.Popen[bytes], address: str) -> str | None:
    """Why a server does not answer at the address; None once it does."""
    # Nobody's proxy knows this machine from inside.
    opener = build_opener(ProxyHandler({}))
    deadline_s = time.monotonic() + LOADING_S
    while (left_s := deadline_s - time.monotonic()) > 0:
        if server.poll() is not None:
            return "ended"
        try:
            with opener.open(address, timeout=left_s):
                return None
        except OSError:
            time.sleep(LOOKING_S)
    return f"has not answered for {LOADING_S:.0f} s"


def _last_lines(log: BinaryIO) -> list[str]:
    log.seek(0)
    return log.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]


def ask_with(tool: Tool, *, model: Lent) -> int:
    """The exit code of the tool; what it prints is shown as it comes.

    Raises InputError where it is not installed, or ends well though no line of its output has its proof or something
    is missing.
    """

    def filled(text: str) -> str:
        return text.replace("{url}", model.url or "").replace("{model}", model.model)

    name, *arguments = map(filled, tool.command)
    # Beside this Python, too: its environment need not be active.
    program = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if program is None:
        raise InputError(
            f"{name} is not on the PATH; install it, in an environment of its own where it wants other versions of "
            f"what is here (pipx install {name})"
        )
    # A Python that writes into a pipe keeps its lines to itself otherwise.
    keys = {"PYTHONUNBUFFERED": "1"} | {key: filled(value) for key, value in tool.keys.items()}
    proof = re.compile(tool.proof or "")
    proven = tool.proof is None
    printed = []
    with subprocess.Popen(
        [program, *arguments], stdout=subprocess.PIPE, text=True, errors="replace", env=os.environ | keys
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            proven = proven or proof.search(line) is not None
            if tool.missing is not None:
                printed.append(line)
    if running.returncode == 0 and not proven:
        raise InputError(
            f"{name} ended well and examined nothing: no line that it printed has '{tool.proof}'; look above for what "
            "it could not find (a probe, a detector, a task), and whether its name is right"
        )
    if running.returncode == 0 and tool.missing is not None and (what := tool.missing(printed)):
        raise InputError(
            f"{name} ended well and did not examine all that was asked for: {what}; look above for what it skipped "
            "(a probe, a detector, a reply that did not come), or leave those out"
        )
    # Of one that a signal ended, the code that a shell would give.
    return running.returncode if running.returncode >= 0 else 128 - running.returncode


def check_free(port: int) -> None:
    """Raises InputError where no server can be had at this port: something is there, or it is not for everybody."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"--port {port}: cannot be used ({error.strerror}); name another one") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
