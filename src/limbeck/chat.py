"""Models side by side in the browser: one message goes to all of them, and each reply shows how it was graded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field

from limbeck.config import load_config
from limbeck.errors import InputError, LimbeckError
from limbeck.judges import SafetyJudge
from limbeck.judges.grade import verdicts
from limbeck.judges.refusal import Refusal
from limbeck.models.adapter import STRONGEST, can_be_scaled
from limbeck.models.answer import trial_of
from limbeck.models.local import Local, name_of
from limbeck.models.reasoning import USUAL, Reasoning
from limbeck.models.references import ADAPTER, MERGED, STUDENT, resolve
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Exchange, Scorer, Tools
from limbeck.records import ChoiceRequest, Message, Prompt, Trial, request_of
from limbeck.serve import HOST, check_free
from limbeck.spec import Spec, fingerprint
from limbeck.taxonomy import REFUSAL_OPENINGS

LEGEND = (
    "Replies are greedy. *refused*: what the refusal judge says of the reply, with the probability that it refuses. "
    "*decision*: the model's own probability of opening with a refusal, before it says anything."
)


class ChatSettings(Spec):
    """How long a reply may be, tokens, and who grades it."""

    max_tokens: int = Field(default=256, ge=1)
    judges: tuple[SafetyJudge, ...] = (Refusal(),)


def sides_of_run(folder: Path) -> Iterator[ModelSpec]:
    """The base of a finished run, its teachers that reply to any prompt, and its student."""
    # A model that was trained whole has no adapter.
    adapter, merged = (folder / STUDENT / part for part in (ADAPTER, MERGED))
    if not (folder / "recipe.yaml").is_file() or not (adapter.is_dir() or merged.is_dir()):
        raise InputError(f"{folder}: there is no finished run in it; name one, or models with --model")
    config = load_config(folder / "recipe.yaml")
    base = config.student.untrained()
    yield base
    for teacher in config.teach.teachers:
        # A recorded teacher knows no reply to what is typed here; another may be the base once more.
        if teacher.redraws and teacher.model_copy(update={"name": base.name}) != base:
            yield teacher
    if adapter.is_dir():
        yield config.student.trained("student", adapter)
    else:
        yield base.model_copy(update={"name": "student", "model": str(merged)})


def sides_of_models(models: Sequence[str], adapter: Path | None, reasoning: Reasoning = USUAL) -> Iterator[ModelSpec]:
    """The models, and the first of them with the adapter on it."""
    for model in models:
        resolve(model)
        yield Local(name=name_of(Path(model)), model=model, dtype="auto", reasoning=reasoning)
    if adapter is not None:
        yield Local(name=name_of(adapter), model=models[0], adapter=adapter, dtype="auto", reasoning=reasoning)


class Side:
    """A model that is talked to; where it has an adapter, at any strength of that."""

    def __init__(self, spec: ModelSpec, opened: ExitStack) -> None:
        self.spec = spec
        adapter = spec.adapter if isinstance(spec, Local) else None
        self.adapter = adapter if adapter is not None and can_be_scaled(adapter) else None
        self.strength = 1.0
        self._opened = opened.enter_context(ExitStack())
        self.model = self._opened.enter_context(spec.open())

    def turn_to(self, strength: float) -> None:
        """From now on it replies with `strength` times its adapter's effect, 0 to 1.5; without one nothing changes."""
        if self.adapter is None or strength == self.strength:
            return
        scaled = self.spec.model_copy(update={"name": f"{self.spec.name} at {strength:g}", "strength": strength})
        self._opened.close()
        self.model = self._opened.enter_context(scaled.open())
        self.strength = strength

    def reply(self, said: Sequence[Trial], message: str, settings: ChatSettings, tools: Tools) -> Trial:
        """Its greedy reply to the message after what was `said`, with the judges' verdicts, and with its scores of the
        refusal openings where it gives log-probabilities. What got no reply before is left out."""
        before: tuple[Message, ...] = ()
        for one in said:
            if one.reply is not None:
                before = (*one.prompt.messages, Message(role="assistant", content=one.reply))
        prompt = Prompt(messages=(*before, Message(role="user", content=message)))
        (reply,) = self.model.replies([request_of(prompt, max_tokens=settings.max_tokens)])
        trial = trial_of(Trial(prompt=prompt, subject=self.model.name, asked="reply"), reply)
        if isinstance(self.model, Scorer):
            asked = self.spec.reasoning.skipped(prompt.messages)
            (scored,) = self.model.choice_scores([ChoiceRequest(messages=asked, choices=REFUSAL_OPENINGS)])
            trial = trial.model_copy(update={"scores": scored.total})
        exchanges = [Exchange(trial.id, message, trial.reply)] if trial.reply is not None else []
        return trial.model_copy(update={"verdicts": tuple(verdicts(settings.judges, exchanges, tools))})


def grades(trial: Trial) -> str:
    """Who replied and how that was graded, in one line: 'student at 0.5 · refused: full, p 0.97 · decision: p 0.83'."""
    said = [trial.subject]
    for verdict in trial.verdicts:
        said.append(f"unscored: {verdict.unscored}" if verdict.unscored else f"refused: {verdict.refused}")
        said[-1] += f", p {verdict.p_refused:.2f}" if verdict.p_refused is not None else ""
    if trial.p_refusing is not None:
        said.append(f"decision: p {trial.p_refusing:.2f}")
    if trial.finish == "length":
        said.append("cut short")
    return " · ".join(said)


def bubbles(said: Sequence[Trial]) -> list[dict[str, Any]]:
    """A side's conversation as gradio shows it."""
    shown: list[dict[str, Any]] = []
    for trial in said:
        reply = trial.reply if trial.reply is not None else f"(no reply: {trial.why or trial.finish})"
        shown.append({"role": "user", "content": trial.prompt.text})
        if trial.reasoning is not None:
            titled = {"title": "reasoning", "status": "done"}
            shown.append({"role": "assistant", "content": trial.reasoning, "metadata": titled})
        shown += [
            {"role": "assistant", "content": reply},
            {"role": "assistant", "content": "", "metadata": {"title": grades(trial), "status": "done"}},
        ]
    return shown


def page(sides: Sequence[Side], settings: ChatSettings, tools: Tools) -> Any:
    """A gradio page with a conversation for each side; a browser tab has conversations of its own."""
    import gradio

    def send(message: str, strength: float, said: list[tuple[Trial, ...]]) -> Iterator[tuple[Any, ...]]:
        if not message.strip():
            raise gradio.Error("write a message first", print_exception=False)
        try:
            for side in sides:
                side.turn_to(strength)
        except LimbeckError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        said = list(said)
        shown = [[*bubbles(one), {"role": "user", "content": message}] for one in said]
        yield "", said, *shown
        for at, side in enumerate(sides):
            said[at] = (*said[at], side.reply(said[at], message, settings, tools))
            shown[at] = bubbles(said[at])
            yield "", said, *shown

    with gradio.Blocks(title="limbeck chat", analytics_enabled=False) as blocks:
        anew: list[tuple[Trial, ...]] = [()] * len(sides)
        said = gradio.State(anew)
        with gradio.Row():
            # The reply as it was said, not as Markdown makes it look.
            windows = [
                gradio.Chatbot(label=side.model.name, height="60vh", render_markdown=False, buttons=[])
                for side in sides
            ]
        message = gradio.Textbox(label="Message to all", submit_btn="Send", autofocus=True)
        adapted = any(side.adapter is not None for side in sides)
        label = "Strength of the adapter from the next message on: 0 is the base model, 1 as it is"
        strength = gradio.Slider(0, STRONGEST, value=1, step=0.05, label=label, visible=adapted)
        gradio.Markdown(LEGEND)
        message.submit(send, [message, strength, said], [message, said, *windows], api_name="send")
        cleared = [window.clear for window in windows]
        gradio.on(cleared, lambda: (anew, *map(bubbles, anew)), None, [said, *windows], api_name="clear")
    return blocks


@contextmanager
def served(specs: Sequence[ModelSpec], settings: ChatSettings, tools: Tools, *, port: int) -> Iterator[Any]:
    """The page with these models on 127.0.0.1 until the block ends; nothing is reported or shared elsewhere.

    Raises InputError, before a model is loaded, where gradio or a folder is missing or the port is taken.
    """
    if find_spec("gradio") is None:
        raise InputError("the package gradio is not installed; run: pip install 'limbeck[chat]'")
    check_free(port)
    for spec in specs:
        # Raises where a file or folder that it names is missing.
        fingerprint(spec)
    with ExitStack() as opened:
        blocks = page([Side(spec, opened) for spec in specs], settings, tools)
        blocks.launch(
            server_name=HOST, server_port=port, share=False, ssr_mode=False, run_history=False, footer_links=[],
            prevent_thread_lock=True, quiet=True,
        )  # fmt: skip
        opened.callback(blocks.close, verbose=False)
        yield blocks
