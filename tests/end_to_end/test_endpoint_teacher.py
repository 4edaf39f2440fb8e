"""The shipped recipe with a text-only teacher, on the server that the docs start."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from limbeck import load_config, run
from limbeck.records import Lesson
from limbeck.targets.cache import Targets
from limbeck.workspace import read_rows

HOUSE = Path(__file__).parents[2]
PRICE = "teach.teachers.0.price={prompt: 1.0, reply: 2.0}"


@contextmanager
def server_of_the_docs() -> Iterator[str]:
    """The address at which a Python block of docs/teachers.md serves SmolLM2, on a port of its own."""
    snippets = re.findall(r"```python\n(.*?)```", (HOUSE / "docs" / "teachers.md").read_text(), re.DOTALL)
    (snippet,) = [one for one in snippets if "import xllamacpp" in one]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "settings.port = 8000" in snippet
    here = snippet.replace("settings.port = 8000", f"settings.port = {port}")
    server = subprocess.Popen(
        [sys.executable, "-c", here], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None and str(port) in server.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


@pytest.mark.model
def test_a_teacher_that_only_writes_teaches_words_and_a_told_local_model_the_distribution(
    tmp_path: Path, small: tuple[str, ...]
) -> None:
    with server_of_the_docs() as url:
        config = load_config(
            HOUSE / "recipes" / "endpoint_teacher.yaml", (*small, PRICE, f"teach.teachers.0.base_url={url}")
        )
        expert = config.teach.teachers[0]
        assert expert.offers == {"replies"} and config.teach.labellers(expert) == (config.teach.soft_labels,)
        made = run(config, tmp_path / "run")
    (rows,) = (tmp_path / "run").glob("round-0/lessons-*/rows-*.jsonl")
    lessons = [one for one in read_rows(rows, Lesson) if one.reply is not None]
    assert any(one.teacher == "expert" for one in lessons)
    # Every reply has a soft target, whoever wrote it.
    (folder,) = (tmp_path / "run").glob("round-0/targets-*/targets")
    assert set(Targets([folder])) == {one.id for one in lessons}
    assert (made.student / "adapter").is_dir() and (made.student / "merged").is_dir()
    page = made.page.read_text()
    assert '<th scope="row">expert</th>' in page
