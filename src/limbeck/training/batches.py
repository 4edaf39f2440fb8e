"""Lessons as token trees: each prompt once, with its refusal openings, its reply and the replies to avoid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from limbeck.errors import InputError
from limbeck.losses.decision import Decision
from limbeck.losses.spec import Loss
from limbeck.models.chat import check_room, end_of_turn, may_exceed, prompt_ids, reply_ids, template_opens
from limbeck.models.prefill import common
from limbeck.models.reasoning import Reasoning, before_answer
from limbeck.models.tree import Tree, TreeBatch, collate, packed, tree_length
from limbeck.perturb import PERTURBATIONS
from limbeck.protocols import LiveTeacher, Spans, TopK
from limbeck.records import Lesson
from limbeck.training.pool import Neighbours, Pool, drawn
from limbeck.training.probe import OVER_REFUSAL, USEFULNESS
from limbeck.training.units import Collected, MicroBatch
from limbeck.training.wording import MIDWAY, Wording

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What losses learn of a reply.
OF_A_REPLY = {"reply", "distribution", "spans"}
# After a phrase a reply may take another turn: with one of these a beginning is made one that does not end so.
STOPS = ",.!"
PHRASE_ENDS = STOPS + '?:;)"。，！？：；'


class Deciding(NamedTuple):
    """A decision: what the reply already says before it, its risk, and how refusals are worded there."""

    begun: list[int]
    risk: float
    wording: Wording

    @property
    def branches(self) -> list[list[int]]:
        """What was begun with each refusal opening."""
        return [self.begun + opening for opening in self.wording.at(self.risk)]


class Example(NamedTuple):
    """A lesson as token ids; what no loss wants of it is empty.

    `thought` is what a student that reasons writes before any answer: tags, and between them the lesson's reasoning.
    The `reply` begins with it, `tags` are the places there that no teacher speaks of, and decisions, rejected and
    foreign replies come after it. `foreign` is another lesson's reply, `beside` are prompts to compare the prompt
    with, the one alike first, `rewritten` is the prompt written otherwise, and `told` what a live teacher sees in its
    place.
    """

    lesson: Lesson
    prompt: list[int]
    decisions: list[Deciding]
    reply: list[int]
    rejected: list[list[int]]
    foreign: list[int]
    beside: list[list[int]]
    rewritten: list[int]
    told: list[int]
    thought: list[int]
    tags: frozenset[int]

    @property
    def reasoned(self) -> int:
        """How many tokens of the reply come before its answer."""
        return common(self.reply, self.thought)

    def tree(self) -> Tree:
        """Prompt and branches: refusal openings first, then the reply, then what to avoid."""
        reply = [self.reply] if self.reply else []
        answers = [*self.rejected, *([self.foreign] if self.foreign else [])]
        before, after = ([self.thought + one for one in some] for some in (self.refusing, answers))
        return Tree(self.prompt, [*before, *reply, *after])

    @property
    def refusing(self) -> list[list[int]]:
        """What is read for all decisions."""
        return [branch for decision in self.decisions for branch in decision.branches]

    def teaches(self) -> bool:
        """Whether any loss learns from it."""
        return bool(self.tree().branches or self.beside)

    def check_room(self, context: int) -> None:
        """Raises InputError where one of its sequences exceeds the student's context."""
        longest = max((len(one) for one in (*self.refusing, *self.rejected)), default=0)
        said = max(len(self.reply), len(self.thought) + longest)
        prompts = [(len(self.prompt), said), (len(self.rewritten), len(self.reply))]
        for prompt, reply in [*prompts, *((len(other), 0) for other in self.beside)]:
            check_room(
                f"lesson {self.lesson.id}",
                self.lesson.prompt.messages,
                prompt=prompt,
                reply=reply,
                context=context,
                of="the student",
            )


def constraint_of(lesson: Lesson) -> str | None:
    """The constraint that pulls on a lesson: its harm where it must be refused, `over_refusal` where it is a harmless
    twin, `usefulness_drop` where it has nothing to do with harm, else none."""
    prompt = lesson.prompt
    if prompt.conduct == "refuse":
        return prompt.refused_harm
    if prompt.harm is None:
        return USEFULNESS if prompt.conduct == "answer" else None
    return OVER_REFUSAL if prompt.is_twin else None


class LessonEncoder:
    """Turns lessons into examples and examples into batches, as far as the losses want them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        targets: Mapping[str, TopK],
        *,
        losses: Sequence[Loss],
        context: int,
        spans: Mapping[str, Spans] = MappingProxyType({}),
        among: Pool | None = None,
        live: LiveTeacher | None = None,
        reasons: Reasoning | None = None,
        reasoning_weight: float = 1.0,
    ) -> None:
        if reasons is not None and template_opens(tokenizer, reasons.opening):
            raise InputError(
                f"train.reasoning is then_answer, and the student's chat template begins every reply with "
                f"{reasons.opening} itself; take that out of the template, or use train.reasoning: answer_only"
            )
        self.tokenizer = tokenizer
        self.reasons = reasons
        self.reasoning_weight = reasoning_weight
        self.losses = losses
        self.targets = targets
        self.spans = spans
        self.wants = frozenset(want for loss in losses for want in loss.wants)
        noises = [loss.under for loss in losses if loss.under is not None and loss.under.on == "text"]
        # All such noises are told to rewrite alike.
        self.rewrites = noises[0].rewrites if noises else ()
        self.context = context
        refusals = [loss.refusal for loss in losses if loss.refusal is not None] or [Decision().refusal]
        self.within, self.recover = refusals[0].within, refusals[0].recover
        self.refusal = Wording.of(tokenizer, refusals)
        self.midway = Wording.of(tokenizer, refusals, after=MIDWAY) if self.within else None
        self.wordings = [one for one in (self.refusal, self.midway) if one is not None]
        self.pad = end_of_turn(tokenizer)
        self.live = live
        self.live_context = 0 if live is None else int(live.weights.config.get_text_config().max_position_embeddings)
        compared = among if self.wants & {"contrasts", "reply_contrasts"} else None
        self.neighbours = Neighbours(compared if compared is not None else Pool.of(()))

    def teaches(self, lesson: Lesson) -> bool:
        """Whether any loss of some weight learns from the lesson, which is not encoded before its step comes unless it
        may be longer than the context, be it the student's or a live teacher's. Raises InputError for one that is."""
        before = before_answer(lesson, self.reasons)
        self._check_tags(lesson)
        said = [before + text for text in (lesson.reply or "", *lesson.rejected)]
        may_be_long = may_exceed(lesson.prompt.messages, said, context=self.context)
        if self.live is not None and lesson.reply is not None:
            told = self.live.told(lesson.prompt.messages, said[0])
            may_be_long |= may_exceed(told, said[:1], context=self.live_context)
        if may_be_long:
            self.example(lesson)
        return any(loss.weight > 0 and self._feeds(lesson, loss) for loss in self.losses)

    def _feeds(self, lesson: Lesson, loss: Loss) -> bool:
        """Whether a loss finds something of any weight in the lesson."""
        if "distribution" in loss.needs and not self._hears(lesson) and lesson.id not in self.targets:
            return False
        if "spans" in loss.needs and lesson.id not in self.spans:
            return False
        told = lesson.reply is not None and lesson.weight > 0
        match loss.over:
            case "taught":
                return told
            case "rejected":
                return any(lesson.rejected)
            case "prompts":
                return lesson.risk is not None
            case "pairs":
                return told and any(lesson.rejected)
            case "contrasts":
                return bool(self.neighbours.beside(lesson))
            case "reply_contrasts":
                return told and self.neighbours.foreign(lesson) is not None
            case "states":
                return told and self._hears(lesson)

    def _hears(self, lesson: Lesson) -> bool:
        """Whether a live teacher is read beside the student on the lesson: not where the house speaks."""
        return self.live is not None and not lesson.by_house

    def example(self, lesson: Lesson, *, seed: int = 0) -> Example:
        """The lesson's tokens, as far as a loss wants them, its prompt rewritten as the seed has it. Raises InputError
        where the context does not hold them."""
        learns = lesson.reply is not None and self.wants & OF_A_REPLY
        before = before_answer(lesson, self.reasons)
        written = before + (lesson.reply or "")
        thought = reply_ids(self.tokenizer, before, ends=False)
        reply = reply_ids(self.tokenizer, written, ends=lesson.ends) if learns else []
        avoided = [reply_ids(self.tokenizer, text, ends=False) for text in lesson.rejected]
        foreign = self.neighbours.foreign(lesson) if reply and "reply_contrasts" in self.wants else None
        beside = self.neighbours.beside(lesson) if "contrasts" in self.wants else []
        told = self.live.told(lesson.prompt.messages, written) if reply and self.live is not None else None
        prompt = self._prompt(lesson)
        # Any beginning of it will do to compare with.
        room = max(0, self.context - len(prompt) - len(thought))
        example = Example(
            lesson,
            prompt=prompt,
            decisions=list(self._decisions(lesson, room=room)) if "risk" in self.wants else [],
            reply=reply,
            rejected=[tokens for tokens in avoided if tokens] if "rejected" in self.wants else [],
            foreign=reply_ids(self.tokenizer, foreign.reply or "", ends=False)[:room] if foreign is not None else [],
            beside=[self._prompt(one) for one in beside],
            rewritten=self._rewritten(lesson, prompt, reply, seed=seed) if reply and self.rewrites else [],
            told=prompt_ids(self.tokenizer, told) if told is not None else [],
            thought=thought,
            tags=self._tags(lesson, reply, reasoned=common(reply, thought)),
        )
        example.check_room(self.context)
        if self.live is not None:
            where, of = f"lesson {lesson.id}", f"teacher '{self.live.name}'"
            sizes = {"prompt": len(example.told), "reply": len(reply)}
            check_room(where, lesson.prompt.messages, **sizes, context=self.live_context, of=of)
        return example

    def _decisions(self, lesson: Lesson, *, room: int) -> Iterator[Deciding]:
        """Where the lesson is decided upon: at the start of its reply, and once more in the midst of an answer that is
        due, or where it recovers of one to avoid, if there are so many tokens of `room` for it."""
        if lesson.risk is None:
            return
        yield Deciding([], lesson.risk, self.refusal)
        is_due = lesson.prompt.conduct != "refuse"
        avoided = next(iter(lesson.rejected), None) if self.recover else None
        text = lesson.reply if is_due else avoided
        if self.midway is not None and (begun := self._begun(text or "", of=lesson.id)):
            midway = Deciding(begun, 0.0 if is_due else 1.0, self.midway)
            if max(map(len, midway.branches)) <= room:
                yield midway

    def _begun(self, text: str, *, of: str) -> list[int]:
        """Some first tokens of an answer and the end of a phrase, where a student may change its mind."""
        tokens = reply_ids(self.tokenizer, text, ends=False)[: 1 + drawn(f"begun {of}") % self.within]
        # A cut within a character leaves none.
        begun = str(self.tokenizer.decode(tokens)).rstrip("\ufffd").rstrip()
        if begun and begun[-1] not in PHRASE_ENDS:
            begun += STOPS[drawn(f"stop {of}") % len(STOPS)]
        return reply_ids(self.tokenizer, begun, ends=False) if begun else []

    def _rewritten(self, lesson: Lesson, prompt: list[int], reply: Sequence[int], *, seed: int) -> list[int]:
        """The prompt written otherwise, or as it is where the context does not hold that."""
        kind = self.rewrites[drawn(f"{seed} {lesson.id}") % len(self.rewrites)]
        rewritten = prompt_ids(self.tokenizer, PERTURBATIONS.read({"kind": kind})(lesson.prompt, seed=seed).messages)
        return rewritten if len(rewritten) + len(reply) <= self.context else prompt

    def _check_tags(self, lesson: Lesson) -> None:
        """Raises InputError where a lesson has the student's tags in a place where the student would be misread."""
        if self.reasons is None:
            return
        opening, closing = self.reasons.opening, self.reasons.closing
        if (lesson.reply or "").lstrip().startswith(opening) or closing in (lesson.reasoning or ""):
            raise InputError(
                f"lesson {lesson.id}: its reply begins with {opening} or its reasoning holds {closing}, which stand "
                "around the student's own reasoning; give reasoning and answer apart and without them, choose other "
                "tags in student.reasoning, or use train.reasoning: answer_only"
            )

    def _tags(self, lesson: Lesson, reply: Sequence[int], *, reasoned: int) -> frozenset[int]:
        """The places before the answer that are not of the lesson's reasoning. A teacher that was made to reason, or
        wrote none, would not have written them."""
        if self.reasons is None:
            return frozenset()
        opened = f"{self.reasons.opening}\n"
        start, end = (
            common(reply, reply_ids(self.tokenizer, text, ends=False))
            for text in (opened, opened + (lesson.reasoning or ""))
        )
        return frozenset(range(reasoned)) - frozenset(range(start, end))

    def _prompt(self, lesson: Lesson) -> list[int]:
        return prompt_ids(self.tokenizer, lesson.prompt.messages)

    def micro_batches(
        self, examples: Sequence[Example], *, budget: int, multipliers: Mapping[str, float] = MappingProxyType({})
    ) -> Iterator[MicroBatch]:
        """The examples of one step in batches of at most `budget` tokens, padding included; at least one, for processes
        that train together wait for one another. It has no unit where no example teaches."""
        useful = [example for example in examples if example.teaches()]
        lengths = [sum(map(tree_length, self._trees(example))) for example in useful]
        for rows in packed(lengths, budget=budget):
            yield self._batch([[useful[item] for item in row] for row in rows], multipliers)
        if not useful:
            yield self._batch([], multipliers)

    def _trees(self, example: Example) -> list[Tree]:
        """The lesson's own tree and one for each prompt beside it. A branch of one token asks for the state before it
        and is not read itself."""
        own = example.tree()
        if not example.beside:
            return [own]
        ask = [[self.pad]]
        return [Tree(own.prompt, own.branches or ask), *(Tree(prompt, ask) for prompt in example.beside)]

    def _batch(self, rows: Sequence[Sequence[Example]], multipliers: Mapping[str, float]) -> MicroBatch:
        nothing = [[Tree([self.pad], [])]]
        forest = [[tree for example in row for tree in self._trees(example)] for row in rows]
        units = Collected(collate(forest or nothing, pad=self.pad), self.wordings)
        scored = count()
        for example in chain.from_iterable(rows):
            lesson = example.lesson
            learning = units.of(lesson, pull=1.0 + multipliers.get(constraint_of(lesson) or "", 0.0))
            own, *beside = (
                [list(islice(scored, len(branch))) for branch in tree.branches] for tree in self._trees(example)
            )
            branches, thought = iter(own), len(example.thought)
            for decision in example.decisions:
                before = thought + len(decision.begun)
                places = [next(branches)[before:] for _ in decision.branches]
                learning.decide(decision.wording, places, risk=decision.risk)
            if example.reply:
                target = self.targets.get(lesson.id) if "distribution" in self.wants else None
                spans = self.spans.get(lesson.id) if "spans" in self.wants else None
                is_known = target is not None or self._hears(lesson)
                learning.reply(
                    next(branches),
                    reasoned=example.reasoned,
                    reasoning_weight=self.reasoning_weight,
                    known=[is_known and at not in example.tags for at in range(len(example.reply))],
                    target=target,
                    spans=spans,
                    states="states" in self.wants,
                )
            learning.avoid([next(branches)[thought:] for _ in example.rejected])
            if example.foreign:
                learning.compare_replies(own[0][0], next(branches)[thought:])
            if beside:
                learning.compare_prompts(own[0][0], [asked for ((asked,),) in beside])
        return units.batch(
            rewritten=self._instead(rows, lambda example: example.rewritten),
            told=self._instead(rows, lambda example: example.told),
        )

    def _instead(
        self, rows: Sequence[Sequence[Example]], prompt_of: Callable[[Example], list[int]]
    ) -> TreeBatch | None:
        """The taught replies, in their order, after other prompts; None where there are none."""
        trees = [[Tree(prompt_of(one), [one.reply]) for one in row if one.reply and prompt_of(one)] for row in rows]
        return collate([row for row in trees if row], pad=self.pad) if any(trees) else None
