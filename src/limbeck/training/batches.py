"""Lessons as token trees: each prompt once, with its refusal openings, its reply and the replies to avoid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.losses.decision import Decision
from limbeck.losses.spec import Labels, Loss, Share
from limbeck.models.chat import check_room, end_of_turn, may_exceed, prompt_ids, reply_ids, template_opens
from limbeck.models.prefill import common
from limbeck.models.reasoning import Reasoning, before_answer
from limbeck.models.tree import Tree, TreeBatch, collate, packed, tree_length
from limbeck.perturb import Typos
from limbeck.protocols import LiveTeacher, Spans, TopK
from limbeck.records import Lesson
from limbeck.targets.ragged import widened
from limbeck.targets.spans import placed
from limbeck.taxonomy import REFUSAL_OPENINGS
from limbeck.training.pool import Neighbours, Pool
from limbeck.training.probe import OVER_REFUSAL, USEFULNESS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Soft = TypeVar("Soft", TopK, Spans)

# What losses learn of a reply.
OF_A_REPLY = {"reply", "distribution", "spans"}

# Whose tokens those before an answer are among the replies that are paired.
NO_REPLY = -1


class Example(NamedTuple):
    """A lesson as token ids; what no loss wants of it is empty.

    `thought` is what a student that reasons writes before any answer: tags, and between them the lesson's reasoning.
    The `reply` begins with it, `tags` are the places there that no teacher speaks of, and openings, rejected and
    foreign replies come after it. `foreign` is another lesson's reply, `beside` are prompts to compare the prompt with,
    the one alike first, `rewritten` is the prompt with misspellings, and `told` what a live teacher sees in its place.
    """

    lesson: Lesson
    prompt: list[int]
    openings: list[list[int]]
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
        """Prompt and branches: openings first, then the reply, then what to avoid."""
        reply = [self.reply] if self.reply else []
        answers = [*self.rejected, *([self.foreign] if self.foreign else [])]
        before, after = ([self.thought + one for one in some] for some in (self.openings, answers))
        return Tree(self.prompt, [*before, *reply, *after])

    def teaches(self) -> bool:
        """Whether any loss learns from it."""
        return bool(self.tree().branches or self.beside)

    def check_room(self, context: int) -> None:
        """Raises InputError where one of its sequences exceeds the student's context."""
        longest = max((len(one) for one in (*self.openings, *self.rejected)), default=0)
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


class Compared(NamedTuple):
    """States to compare: which scored tokens are pooled into each (`owner_P`), and who is compared with whom."""

    at_P: Tensor
    owner_P: Tensor
    anchor_C: Tensor
    others_CM: Tensor
    valid_CM: Tensor


class MicroBatch(NamedTuple):
    """One forward pass: the trees, the labels, and which scored tokens belong to which loss.

    `openings_BO` are the scored tokens of refusal openings for each deciding prompt, `opening_O` the tokens
    themselves and `opening_sizes` how many of them each opening has; the rest go on from the first. `chosen_N` and
    `avoided_R` count the replies that tokens belong to, `pair_L2` is which of them are pairs. `rewritten` are the trees
    of taught replies after their misspelt prompts, `told` those after what a live teacher sees; None where nobody wants
    them.
    """

    trees: TreeBatch
    labels: Labels
    taught_N: Tensor
    rejected_R: Tensor
    openings_BO: Tensor
    opening_O: Tensor
    opening_sizes: tuple[int, ...]
    teacher: TopK
    spans: Spans
    chosen_N: Tensor
    avoided_R: Tensor
    pair_L2: Tensor
    prompts: Compared
    replies: Compared
    rewritten: TreeBatch | None
    told: TreeBatch | None


class _Shares:
    """The shares of one kind of units, as they come."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, bool]] = []

    def add(self, lesson: Lesson, weight: float, pull: float, count: int = 1) -> None:
        self.rows += [(weight, pull, lesson.prompt.conduct == "refuse")] * count

    def share(self) -> Share:
        columns = list(zip(*self.rows, strict=True)) or [(), (), ()]
        return Share(
            torch.tensor(columns[0], dtype=torch.float32),
            torch.tensor(columns[1], dtype=torch.float32),
            torch.tensor(columns[2], dtype=torch.bool),
        )


class _Comparisons:
    """States and comparisons, as they come."""

    def __init__(self) -> None:
        self.states: list[list[int]] = []
        self.rows: list[tuple[int, list[int]]] = []

    def add(self, anchor: list[int], others: list[list[int]]) -> None:
        first = len(self.states)
        self.states += [anchor, *others]
        self.rows.append((first, list(range(first + 1, len(self.states)))))

    def compared(self) -> Compared:
        width = max((len(others) for _, others in self.rows), default=0)
        others = [others + [0] * (width - len(others)) for _, others in self.rows]
        valid = [[place < len(others) for place in range(width)] for _, others in self.rows]
        owners = [owner for owner, state in enumerate(self.states) for _ in state]
        return Compared(
            torch.tensor([at for state in self.states for at in state], dtype=torch.long),
            torch.tensor(owners, dtype=torch.long),
            torch.tensor([anchor for anchor, _ in self.rows], dtype=torch.long),
            torch.tensor(others, dtype=torch.long).view(len(self.rows), width),
            torch.tensor(valid, dtype=torch.bool).view(len(self.rows), width),
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
        # `text_noise` is the prompt with misspellings.
        noises = {loss.under.on for loss in losses if loss.under is not None}
        needs = frozenset(need for loss in losses for need in loss.needs)
        self.wants = needs | ({"text_noise"} if "text" in noises else set())
        self.context = context
        refusals = [loss.refusal for loss in losses if loss.refusal is not None] or [Decision().refusal]
        counted = [
            reply_ids(tokenizer, opening, ends=False)
            for opening in REFUSAL_OPENINGS[: max(one.openings for one in refusals)]
        ]
        self.opening_sizes = tuple(map(len, counted))
        # All decisions teach the same words.
        words = reply_ids(tokenizer, refusals[0].words, ends=False)
        if words[: self.opening_sizes[0]] != counted[0]:
            raise InputError(
                f"loss 'decision': the student's tokens of {refusals[0].words!r} do not begin with those of "
                f"{REFUSAL_OPENINGS[0]!r}; choose other words for refuse_with"
            )
        self.openings = [words, *counted[1:]]
        self.pad = end_of_turn(tokenizer)
        self.live = live
        compared = among if self.wants & {"contrasts", "reply_contrasts"} else None
        self.neighbours = Neighbours(compared if compared is not None else Pool.of(()))

    def teaches(self, lesson: Lesson) -> bool:
        """Whether any loss of some weight learns from the lesson, which is not encoded before its step comes unless it
        may be longer than the context. Raises InputError for one that is."""
        before = before_answer(lesson, self.reasons)
        self._check_tags(lesson)
        said = [before + text for text in (lesson.reply or "", *lesson.rejected)]
        if may_exceed(lesson.prompt.messages, said, context=self.context):
            self.example(lesson)
        return any(loss.weight > 0 and self._feeds(lesson, loss) for loss in self.losses)

    def _feeds(self, lesson: Lesson, loss: Loss) -> bool:
        """Whether a loss finds something of any weight in the lesson."""
        heard = self.live is not None and not lesson.by_house
        if "distribution" in loss.needs and not heard and lesson.id not in self.targets:
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
                return told and heard

    def example(self, lesson: Lesson) -> Example:
        """The lesson's tokens, as far as a loss wants them. Raises InputError where the context does not hold them."""
        learns = lesson.reply is not None and self.wants & OF_A_REPLY
        before = before_answer(lesson, self.reasons)
        written = before + (lesson.reply or "")
        thought = reply_ids(self.tokenizer, before, ends=False)
        reply = reply_ids(self.tokenizer, written, ends=lesson.ends) if learns else []
        avoided = [reply_ids(self.tokenizer, text, ends=False) for text in lesson.rejected]
        foreign = self.neighbours.foreign(lesson) if reply and "reply_contrasts" in self.wants else None
        beside = self.neighbours.beside(lesson) if "contrasts" in self.wants else []
        rewritten = Typos()(lesson.prompt, seed=0).messages if reply and "text_noise" in self.wants else None
        told = self.live.told(lesson.prompt.messages, written) if reply and self.live is not None else None
        prompt = self._prompt(lesson)
        # Any beginning of it will do to compare with.
        room = max(0, self.context - len(prompt) - len(thought))
        example = Example(
            lesson,
            prompt=prompt,
            openings=self._openings_at(lesson.risk) if "risk" in self.wants and lesson.risk is not None else [],
            reply=reply,
            rejected=[tokens for tokens in avoided if tokens] if "rejected" in self.wants else [],
            foreign=reply_ids(self.tokenizer, foreign.reply or "", ends=False)[:room] if foreign is not None else [],
            beside=[self._prompt(one) for one in beside],
            rewritten=prompt_ids(self.tokenizer, rewritten) if rewritten is not None else [],
            told=prompt_ids(self.tokenizer, told) if told is not None else [],
            thought=thought,
            tags=self._tags(lesson, reply, reasoned=common(reply, thought)),
        )
        example.check_room(self.context)
        if self.live is not None:
            held = int(self.live.weights.config.get_text_config().max_position_embeddings)
            where, of = f"lesson {lesson.id}", f"teacher '{self.live.name}'"
            told_tokens = len(example.told)
            check_room(where, lesson.prompt.messages, prompt=told_tokens, reply=len(reply), context=held, of=of)
        return example

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

    def _openings_at(self, risk: float) -> list[list[int]]:
        """The openings to read: the first goes on as `refuse_with` does where there is any risk."""
        first, *others = self.openings
        return [first if risk > 0 else first[: self.opening_sizes[0]], *others]

    def _rest_last(self, openings: Sequence[Sequence[int]]) -> list[int]:
        """What belongs to the openings, one after the other, and then what goes on from the first."""
        first = self.opening_sizes[0]
        return [*openings[0][:first], *chain.from_iterable(openings[1:]), *openings[0][first:]]

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
        trees = collate(forest or nothing, pad=self.pad)
        taught: list[int] = []
        rejected: list[int] = []
        openings: list[list[int]] = []
        opening_O = self._rest_last(self.openings)
        risks: list[float | None] = []
        known: list[bool] = []
        positions: list[int] = []
        teachers: list[tuple[int, TopK | None]] = []
        spans: list[tuple[int, Spans | None]] = []
        chosen: list[int] = []
        avoided: list[int] = []
        pairs: list[tuple[int, int]] = []
        prompts, replies = _Comparisons(), _Comparisons()
        of_taught, of_rejected, of_prompts, of_pairs, of_contrasts, of_replies, of_states = (
            _Shares() for _ in range(7)
        )
        scored = count()
        replies_so_far = avoided_so_far = 0
        for example in chain.from_iterable(rows):
            lesson = example.lesson
            pull = 1.0 + multipliers.get(constraint_of(lesson) or "", 0.0)
            own = [list(islice(scored, len(branch))) for branch in self._trees(example)[0].branches]
            branches = iter(own)
            if example.openings:
                thought = len(example.thought)
                places = self._rest_last([next(branches)[thought:] for _ in example.openings])
                # What goes on from the first opening weighs nothing where there is no risk; any place will do.
                openings.append(places + places[-1:] * (len(opening_O) - len(places)))
                risks.append(lesson.risk)
                of_prompts.add(lesson, 1.0, pull)
            pooled: list[list[int]] = []
            if example.reply:
                mine, before = next(branches), example.reasoned
                taught += mine
                positions += range(-before, len(mine) - before)
                of_taught.add(lesson, self.reasoning_weight * lesson.weight, pull, before)
                of_taught.add(lesson, lesson.weight, pull, len(mine) - before)
                if "states" in self.wants:
                    heard = 0.0 if lesson.by_house else lesson.weight
                    of_states.add(lesson, self.reasoning_weight * heard, pull, before)
                    of_states.add(lesson, heard, pull, len(mine) - before)
                target = self.targets.get(lesson.id) if "distribution" in self.wants else None
                is_known = target is not None or (self.live is not None and not lesson.by_house)
                known += [is_known and at not in example.tags for at in range(len(mine))]
                teachers.append((len(mine), target))
                spans.append((len(mine), self.spans.get(lesson.id) if "spans" in self.wants else None))
                chosen += [NO_REPLY] * before + [replies_so_far] * (len(mine) - before)
                pooled.append(mine[before:][1:])
            for _ in example.rejected:
                mine = next(branches)[len(example.thought) :]
                rejected += mine
                of_rejected.add(lesson, 1.0, pull, len(mine))
                avoided += [avoided_so_far] * len(mine)
                if example.reply:
                    pairs.append((replies_so_far, avoided_so_far))
                    of_pairs.add(lesson, lesson.weight, pull)
                avoided_so_far += 1
                pooled.append(mine[1:])
            replies_so_far += bool(example.reply)
            if example.foreign:
                pooled.append(next(branches)[len(example.thought) :][1:])
                if all(pooled):
                    replies.add([own[0][0]], pooled)
                    of_replies.add(lesson, lesson.weight, pull)
            if example.beside:
                prompts.add([own[0][0]], [[next(scored)] for _ in example.beside])
                of_contrasts.add(lesson, 1.0, pull)
        tokens_N = trees.scored.token_N
        spanned = _spanned(spans)
        taught_N, rejected_R = (torch.tensor(rows, dtype=torch.long) for rows in (taught, rejected))
        labels = Labels(
            taught=of_taught.share(),
            rejected=of_rejected.share(),
            prompts=of_prompts.share(),
            pairs=of_pairs.share(),
            contrasts=of_contrasts.share(),
            reply_contrasts=of_replies.share(),
            states=of_states.share(),
            tokens_N=tokens_N[taught_N],
            position_N=torch.tensor(positions, dtype=torch.long),
            known_N=torch.tensor(known, dtype=torch.bool),
            spanned_N=spanned.known_N,
            rejected_R=tokens_N[rejected_R],
            risk_B=torch.tensor(risks, dtype=torch.float32),
        )
        return MicroBatch(
            trees,
            labels,
            taught_N,
            rejected_R,
            torch.tensor(openings, dtype=torch.long).view(len(openings), len(opening_O)),
            torch.tensor(opening_O),
            self.opening_sizes,
            _stacked(teachers),
            spanned,
            # Reasoning counts for one more reply, which is in no pair.
            torch.tensor([replies_so_far if one == NO_REPLY else one for one in chosen], dtype=torch.long),
            torch.tensor(avoided, dtype=torch.long),
            torch.tensor(pairs, dtype=torch.long).view(len(pairs), 2),
            prompts.compared(),
            replies.compared(),
            self._instead(rows, lambda example: example.rewritten),
            self._instead(rows, lambda example: example.told),
        )

    def _instead(
        self, rows: Sequence[Sequence[Example]], prompt_of: Callable[[Example], list[int]]
    ) -> TreeBatch | None:
        """The taught replies, in their order, after other prompts; None where there are none."""
        trees = [[Tree(prompt_of(one), [one.reply]) for one in row if one.reply and prompt_of(one)] for row in rows]
        return collate([row for row in trees if row], pad=self.pad) if any(trees) else None


def _stacked(teachers: Sequence[tuple[int, TopK | None]]) -> TopK:
    """The targets of all replies one after the other; a reply without one gets rows that no loss reads."""
    top = max((target.ids_NK.shape[1] for _, target in teachers if target is not None), default=1)
    parts = []
    for length, target in teachers:
        if target is None:
            parts.append(
                TopK(torch.zeros((length, top), dtype=torch.long), torch.zeros((length, top)), torch.zeros(length))
            )
        else:
            parts.append(widened(_as_long(target, length), top))
    if not parts:
        return TopK(torch.zeros((0, 1), dtype=torch.long), torch.zeros((0, 1)), torch.zeros(0))
    return TopK(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _spanned(replies: Sequence[tuple[int, Spans | None]]) -> Spans:
    """The spans of all replies one after the other. In a reply without them each token stands alone, and nothing is
    known of it; in the place of no id stands one that its row does not have."""
    parts = [_alone(0), *(_as_long(one, length) if one is not None else _alone(length) for length, one in replies)]
    begins, known, ids, logprobs, whole, odd, tail = zip(*parts, strict=True)
    return Spans(
        torch.cat(begins),
        torch.cat(known),
        _filled(_wide(ids, -1)),
        _wide(logprobs, -math.inf),
        torch.cat(whole),
        _wide(odd, -math.inf),
        torch.cat(tail),
    )


def _alone(length: int) -> Spans:
    alone, none_GW, none_G = torch.ones(length, dtype=torch.bool), torch.zeros((0, 0)), torch.zeros(0)
    return placed(alone, ~alone, none_GW.long(), none_GW, none_G, none_GW, none_G)


def _wide(columns: Sequence[Tensor], empty: float) -> Tensor:
    """The rows of all columns, as wide as the widest."""
    width = max(column.shape[1] for column in columns)
    return torch.cat([nn.functional.pad(column, (0, width - column.shape[1]), value=empty) for column in columns])


def _filled(ids_NW: Tensor) -> Tensor:
    """The ids, and in the place of each -1 the least that its row does not have."""
    width = ids_NW.shape[1]
    taken_NW = torch.zeros((len(ids_NW), width + 1), dtype=torch.bool)
    taken_NW = taken_NW.scatter(1, ids_NW.where((ids_NW >= 0) & (ids_NW < width), width), True)[:, :width]
    free_NW = taken_NW.long().argsort(dim=1, stable=True)
    missing_NW = ids_NW < 0
    return free_NW.gather(1, (missing_NW.cumsum(1) - 1).clamp(min=0)).where(missing_NW, ids_NW)


def _as_long(target: Soft, length: int) -> Soft:
    if len(target.tail_N) != length:
        raise AssertionError(f"a reply of {length} tokens has soft targets for {len(target.tail_N)}")
    return target
