"""A model is lent to a tool of others, and the tool has to show that it asked anything."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from limbeck.errors import InputError
from limbeck.serve import TOOLS, Lent, Tool, ask_with, check_free, lent, tool_of

HOUSE = Path(__file__).parents[1]
STUDENT = Lent("/models/student", "http://127.0.0.1:1/v1")


def script(folder: Path, *lines: str) -> tuple[str, ...]:
    """A tool that does what these lines of Python say."""
    folder.mkdir(exist_ok=True)
    file = folder / "tool.py"
    file.write_text("import os, sys\n" + "\n".join(lines))
    return (sys.executable, str(file))


def test_a_tool_is_told_where_the_model_is_and_its_words_and_exit_code_are_passed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = script(tmp_path, "print(sys.argv[1:], os.environ.get('MY_URL'))", "sys.exit(4)")
    tool = Tool((*says, "--at={url}", '{"model": "{model}"}'), keys={"MY_URL": "{url}"})
    assert ask_with(tool, model=STUDENT) == 4
    told = f"['--at={STUDENT.url}', '{{\"model\": \"{STUDENT.model}\"}}'] {STUDENT.url}\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_a_known_tool_keeps_its_users_own_keys(name: str) -> None:
    # Its judges may be asked elsewhere by these.
    assert not {"OPENAI_BASE_URL", "OPENAI_API_KEY"} & TOOLS[name].keys.keys()
    mine = tool_of(None, more=["mine"])
    assert mine is not None and mine.keys["OPENAI_BASE_URL"] == "{url}"


def test_an_lm_eval_that_ends_well_without_a_figure_examined_nothing(tmp_path: Path) -> None:
    nothing = Tool(script(tmp_path, "print('INFO: Selected Tasks: [mine]')"), TOOLS["lm_eval"].proof)
    with pytest.raises(InputError, match="ended well and examined nothing: no line that it printed has"):
        ask_with(nothing, model=STUDENT)


def garak_with(folder: Path, *evals: dict[str, object], more: Sequence[str] = ()) -> Tool:
    """A garak that ends well with these evaluations in its report: what it prints, with `more` lines, and writes, cut
    to what is read."""
    folder.mkdir()
    report = folder / "garak.report.jsonl"
    rows = [
        {"entry_type": "start_run setup", "plugins.probe_spec": "dan.Dan_11_0,lmrc"},
        {"entry_type": "attempt", "probe_classname": "dan.Dan_11_0", "status": 2, "detector_results": {"dan.DAN": [0]}},
        *({"entry_type": "eval", "passed": 1} | one for one in evals),
        {"entry_type": "probe_summary", "probe": "lmrc.Bullying"},
        {"entry_type": "completion"},
    ]
    report.write_text("\n".join(map(json.dumps, rows)))
    coloured = "\U0001f575  queue of \x1b[1m\x1b[93mprobes:\x1b[0m dan.Dan_11_0, lmrc.Bullying"
    lines = [f"\U0001f4dc reporting to {report}", coloured, *more]
    says = script(folder, "sys.stdout.reconfigure(encoding='utf-8')", *(f"print({line!r})" for line in lines))
    return Tool(says, missing=TOOLS["garak"].missing)


DAN, BULLYING = (
    {"probe": name, "detector": "d", "total_evaluated": 2, "total_processed": 2}
    for name in ("dan.Dan_11_0", "lmrc.Bullying")
)


def test_an_evaluation_as_earlier_versions_of_garak_wrote_it_counts(tmp_path: Path) -> None:
    assert ask_with(garak_with(tmp_path / "old", DAN, {"probe": "lmrc.Bullying", "total": 2}), model=STUDENT) == 0


def test_a_detector_that_garak_could_not_load_is_named_though_another_scored_the_replies(tmp_path: Path) -> None:
    # So the harness of probes names it, and so the one of probes and detectors.
    lines = [f" detector load failed: {name}, skipping >>" for name in ("misleading.NLI", "detectors.dan.X")]
    with pytest.raises(InputError, match=r"asked for: it could not load misleading\.NLI, dan\.X; look above"):
        ask_with(garak_with(tmp_path / "skipped", DAN, BULLYING, more=[*lines, lines[0]]), model=STUDENT)


def test_a_probe_that_garak_got_no_reply_to_is_named(tmp_path: Path) -> None:
    # Every reply that the detector saw was None.
    with pytest.raises(InputError, match=r"garak\.report\.jsonl has no scored reply to lmrc\.Bullying; look above"):
        ask_with(garak_with(tmp_path / "none", DAN, BULLYING | {"total_evaluated": 0}), model=STUDENT)
    with pytest.raises(InputError, match=r"no scored reply to dan\.Dan_11_0, lmrc\.Bullying; look above"):
        ask_with(garak_with(tmp_path / "nothing"), model=STUDENT)


def test_a_garak_that_names_no_probes_or_whose_report_is_gone_examined_nothing(tmp_path: Path) -> None:
    silent = Tool(script(tmp_path, "print('nothing to do')"), missing=TOOLS["garak"].missing)
    with pytest.raises(InputError, match="did not examine all that was asked for: it named no probes, or no report"):
        ask_with(silent, model=STUDENT)
    gone = garak_with(tmp_path / "gone", DAN, BULLYING)
    (tmp_path / "gone" / "garak.report.jsonl").unlink()
    with pytest.raises(InputError, match=r"garak\.report\.jsonl: there is no such file"):
        ask_with(gone, model=STUDENT)


def test_a_tool_that_fails_or_is_stopped_has_its_own_exit_code(tmp_path: Path) -> None:
    assert ask_with(Tool(script(tmp_path, "sys.exit(1)"), "done", TOOLS["garak"].missing), model=STUDENT) == 1
    assert ask_with(Tool(script(tmp_path, "os.kill(os.getpid(), 15)")), model=STUDENT) == 128 + 15


def test_a_tool_that_is_not_installed_is_one_message() -> None:
    with pytest.raises(InputError, match=r"no-such-tool is not on the PATH; install it.*pipx install no-such-tool"):
        ask_with(Tool(("no-such-tool",)), model=STUDENT)


def test_a_tool_of_an_environment_that_is_not_active_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_with(Tool((Path(sys.executable).name, "-c", "import sys; sys.exit(4)")), model=STUDENT) == 4


@pytest.mark.model
def test_the_task_of_the_docs_is_examined_by_lm_evaluation_harness_without_the_hub(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if find_spec("lm_eval") is None:
        pytest.skip("lm-evaluation-harness is not installed: pip install 'limbeck[lm-eval]'")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    page = (HOUSE / "docs" / "other-tools.md").read_text()
    (task,) = re.findall(r"```yaml\n(task: mine\n.*?)```", page, re.DOTALL)
    Path("tasks").mkdir()
    Path("tasks/mine.yaml").write_text(task)
    rows = [{"prompt": f"Is {number} even?", "choices": ["yes", "no"], "answer": number % 2} for number in range(6)]
    Path("mcq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tool = tool_of("lm_eval", more=["--tasks", "mine", "--include_path", "tasks"])
    assert tool is not None
    with lent(str(tiny_model), tool) as model:
        assert ask_with(tool, model=model) == 0
    # |mine |Yaml|none |0 |acc_norm|↑ |0.5|± |0.2|
    (share,) = re.findall(r"\|acc_norm *\|[^|]*\| *([\d.]+) *\|", capfd.readouterr().out)
    assert 0 <= float(share) <= 1


def test_a_known_tool_gets_more_arguments_and_any_command_is_a_tool() -> None:
    garak = tool_of("garak", more=["--probes", "dan"])
    assert garak is not None
    assert garak.command == (*TOOLS["garak"].command, "--probes", "dan") and garak.missing == TOOLS["garak"].missing
    assert tool_of("garak", expect="hit") == TOOLS["garak"]._replace(proof="hit", missing=None)
    mine = tool_of(None, more=["mine", "{url}"], expect="done")
    assert mine is not None and (mine.command, mine.proof) == (("mine", "{url}"), "done")
    assert tool_of(None) is None


@pytest.mark.parametrize(
    ("name", "more", "expect", "message"),
    [
        ("garack", [], None, "--to garack: did you mean garak"),
        (None, [], "done", "--expect looks at what a command prints"),
        (None, ["mine"], "(", r"--expect \(: is no regular expression"),
    ],
)
def test_what_cannot_be_called_is_one_message(
    name: str | None, more: list[str], expect: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tool_of(name, more=more, expect=expect)


def test_a_tool_that_needs_no_server_gets_the_folder_of_a_model_or_of_a_finished_runs_student(
    tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "student" / "merged")
    for name, folder in ((tiny_model, tiny_model), (tmp_path, tmp_path / "student" / "merged")):
        with lent(str(name), TOOLS["lm_eval"]) as found:
            assert found == Lent(str(folder.absolute()))


def test_a_server_is_not_started_for_a_model_without_a_chat_template_or_at_a_port_that_is_taken(
    tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "base", ignore=shutil.ignore_patterns("*.jinja"))
    with pytest.raises(InputError, match="has no chat template"), lent(str(tmp_path / "base"), None):
        pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"--port \d+: cannot be used"):
            check_free(taken.getsockname()[1])


@pytest.mark.model
def test_the_model_answers_behind_the_server_until_the_tool_is_done(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openai import APIConnectionError, OpenAI

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with lent(str(tiny_model), None) as found:
        monkeypatch.delenv("HTTP_PROXY")
        client = OpenAI(base_url=found.url, api_key="none", max_retries=0)
        chat = client.chat.completions.create(
            model=found.model, messages=[{"role": "user", "content": "Why?"}], max_tokens=4, temperature=0
        )
        assert chat.choices[0].message.content is not None
        assert chat.usage is not None and 1 <= chat.usage.completion_tokens <= 4
    with pytest.raises(APIConnectionError):
        client.models.list()
    with pytest.raises(InputError, match="ended before its time"), lent(str(tiny_model), None) as found:
        assert found.server is not None
        found.server.kill()
        found.server.wait()


@pytest.mark.model
def test_a_server_that_does_not_start_says_why(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"torn")
    why = r"the server for .* ended; it said:\n.+"
    with pytest.raises(InputError, match=why), lent(str(tmp_path / "torn"), None):
        pass
