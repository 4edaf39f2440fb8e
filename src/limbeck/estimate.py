"""What a run will take, before it is started: items, tokens, time and memory of each stage.

Tokens are counted on the real prompts, in the batches that the stages make of them; replies to come count as
`max_tokens` long, each prompt as asked once. Time is that of the model's layers and head, at the pace that this machine
has now; attention over some hundred tokens adds little to it.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from limbeck.config import RunConfig
from limbeck.curate import planned
from limbeck.evaluation import wanted_trials
from limbeck.evaluation.scores import score_request
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.fused import PROJECTED_LOGITS
from limbeck.models.chat import prompt_ids, reply_ids
from limbeck.models.context import PrivilegedContext, told
from limbeck.models.local import Local
from limbeck.models.precision import meant_here, torch_type
from limbeck.models.prefill import common
from limbeck.models.references import Reference, files_of, load_tokenizer, on_disk, resolve
from limbeck.models.spec import ModelSpec
from limbeck.models.tree import Tree, collate, packed, tree_length
from limbeck.pace import NotKnown, product_s, reading_s, training_s, writing_s
from limbeck.records import Lesson, Message, Prompt
from limbeck.taxonomy import HARD_RISK, HOUSE
from limbeck.teach import who_is_asked
from limbeck.teach.risk import open_ended
from limbeck.teach.settings import DrawnRisk, GuardedRisk, TeachSettings
from limbeck.training.batches import Deciding, Example, LessonEncoder
from limbeck.training.loop import choose, step_count
from limbeck.training.pool import Pool
from limbeck.training.student import AdapterSettings

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import PreTrainedTokenizerBase

Item = TypeVar("Item")

# Of the pace of the model alone, the share that whole stages reach, least and most: docs/command-line.md, Estimate.
SHARE_REACHED = (0.45, 0.9)
# Tokens that are read at once and trained on at once, and places whose logits are computed at once, to measure pace by.
READING_TOKENS, TRAINING_TOKENS, HEAD_PLACES = 256, 512, 64
# Whether a lesson fits the context is said when it is trained on.
LONGEST = sys.maxsize
# So many items and steps are tokenised, evenly spread; the others count as they do.
SAMPLED, SAMPLED_STEPS = 400, 24
# MiniLM: six layers of 384, and four products of 384 x 1,536 or less.
ENCODER_WEIGHTS, ENCODER_SHAPE = 10_616_832, (384, 1536)
# Of a logit in a training step, while its block lasts, in float32.
LOGIT_BYTES = 4
# float32 copies of the adapter: weights, gradients, and two moments of AdamW.
ADAPTER_COPIES = 4
# Bytes of a process that has imported torch, transformers and PEFT and loaded the sentence encoder.
PROCESS = 650_000_000
# A process keeps memory that it has freed: the quickstart's training takes 2.0 GB at first and 2.9 GB at its end.
GROWN = 1.45
# Of the decoder's weights, what linear layers must have for their products to stand for its work.
LINEAR_SHARE = 0.9
LAYER = re.compile(r"\.(\d+)\.")
CAPTION = (
    "Replies count as long as they may be, each prompt as asked once. Time is for this machine as it is now; "
    "memory is that of the whole process."
)


class Sizes(NamedTuple):
    """Of a model without its weights. `reached` are the layers that the backward pass goes through; `passed` and `kept`
    the elements a token that the linear layers read and give, of all layers and of these; `cached` those of a token in
    the key-value cache; `head` the inputs and outputs of the output head."""

    parameters: int
    adapter: int
    head: tuple[int, int]
    layers: int
    reached: int
    passed: int
    kept: int
    cached: int

    @property
    def vocabulary(self) -> int:
        """Outputs of the head."""
        return self.head[1]


class Cost(NamedTuple):
    """Items, tokens read (padding counted, shared beginnings once) and written; seconds that the model alone takes
    for them; bytes at the peak, beside what the process has loaded."""

    items: int = 0
    read: int = 0
    written: int = 0
    seconds: float = 0.0
    memory: int = 0

    def then(self, other: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(
            self.items + other.items,
            self.read + other.read,
            self.written + other.written,
            self.seconds + other.seconds,
            max(self.memory, other.memory),
        )

    def beside(self, other: Cost) -> Cost:
        """Both on the same items, with both in memory."""
        return Cost(
            max(self.items, other.items),
            self.read + other.read,
            self.written + other.written,
            self.seconds + other.seconds,
            self.memory + other.memory,
        )

    def times(self, count: float) -> Cost:
        """So many times in a row."""
        items, read, written = (round(each * count) for each in (self.items, self.read, self.written))
        return Cost(items, read, written, self.seconds * count, self.memory)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A line of the estimate; `note` says what is not in it."""

    name: str
    cost: Cost
    note: str = ""


class Engine(NamedTuple):
    """A model that runs here, from this folder; with `merges` an adapter is merged into it when it is loaded."""

    folder: str
    sizes: Sizes
    tokenizer: PreTrainedTokenizerBase
    model: Local | PrivilegedContext
    merges: bool = False

    @classmethod
    def of(cls, model: Local | PrivilegedContext, adapter: AdapterSettings | None = None) -> Engine:
        """The engine of a model; raises NotKnown where its files are not on this disk."""
        reference = on_disk(resolve(model.model))
        if reference is None:
            raise NotKnown(f"{model.model} is on the Hub, and its files are not on this disk yet")
        return cls(
            files_of(reference), _sizes(reference, adapter or AdapterSettings()), load_tokenizer(reference), model
        )

    def replies(self, chats: Sequence[tuple[Message, ...]], max_tokens: int) -> Cost:
        """One reply of `max_tokens` to each chat; what all begin with is read once."""
        if not chats:
            return Cost()
        some = _spread(chats, SAMPLED)
        ids = [prompt_ids(self.tokenizer, chat) for chat in some]
        shared = common(min(ids), max(ids)) if len(ids) > 1 else 0
        read = round(sum(len(one) - shared for one in ids) * len(chats) / len(ids)) + shared
        written = len(chats) * max_tokens
        longest = max(map(len, ids)) + max_tokens
        rows = max(1, min(len(chats), self.model.batch_tokens // longest))
        sizes, size, precision = self.sizes, torch_type(self.model.dtype).itemsize, self.model.dtype
        # Pace is measured for a few numbers of rows.
        near = 2 ** round(math.log2(rows))
        token_s = (sizes.layers * writing_s(self.folder, precision, near) + self._head_s(near)) / near
        seconds = self._reading_s(read) + written * token_s
        # The cache is copied when it grows.
        cache = 2 * rows * longest * sizes.cached * size
        return Cost(len(chats), read, written, seconds, self._loaded() + cache + 2 * rows * sizes.vocabulary * 4)

    def reading(self, trees: Sequence[Tree]) -> Cost:
        """One pass over prompts with given continuations."""
        some = _spread(trees, SAMPLED)
        if not some:
            return Cost()
        batches = _batches(some, budget=self.model.batch_tokens)
        read, places = (sum(column) for column in zip(*batches, strict=True))
        seconds = self._reading_s(read) + places * self._head_s(HEAD_PLACES) / HEAD_PLACES
        once = Cost(len(some), read, 0, seconds)
        widest = max(tokens for tokens, _ in batches)
        layer = self.sizes.passed // self.sizes.layers * widest * 4
        return once.times(len(trees) / len(some))._replace(memory=self._loaded() + layer)

    def training(self, config: RunConfig, encoder: LessonEncoder, lessons: Pool) -> Cost:
        """All steps of a training on these lessons."""
        settings, sizes = config.train, self.sizes
        steps = step_count(settings, len(lessons))
        ordered = list(lessons.in_order(seed=config.seed, epoch=0))
        groups = [ordered[at : at + settings.batch_lessons] for at in range(0, len(ordered), settings.batch_lessons)]
        some = _spread(groups, SAMPLED_STEPS)
        batches = []
        for group in some:
            examples = [_example(encoder, lesson, config.teach) for lesson in group]
            trees = [one.tree() for one in examples if one.teaches()]
            batches += _batches(trees, budget=settings.micro_batch_tokens)
        if not batches:
            return Cost()
        read, places = (sum(column) for column in zip(*batches, strict=True))
        everywhere = config.student.adapter.model_copy(update={"first_layer": 0})
        # Below the first layer with an adapter there is no backward pass.
        layer_s = sizes.reached * training_s(self.folder, everywhere, settings.precision, TRAINING_TOKENS)
        # What is not kept on the way to the loss is read once more on the way back.
        twice = sizes.reached if settings.gradient_checkpointing else 0
        layer_s += (sizes.layers - sizes.reached + twice) * reading_s(self.folder, settings.precision, TRAINING_TOKENS)
        # The head's backward pass is a second product.
        head_s = 2 * product_s(sizes.head, settings.precision, HEAD_PLACES)
        seconds = read * layer_s / TRAINING_TOKENS + places * head_s / HEAD_PLACES
        lessons_each = sum(map(len, some)) / len(some)
        cost = Cost(round(lessons_each * len(some)), read, 0, seconds).times(steps / len(some))
        size, tokens = torch_type(settings.precision).itemsize, max(tokens for tokens, _ in batches)
        held = sizes.parameters * size + sizes.adapter * 4 * ADAPTER_COPIES
        # An input in the backbone's type, and what the adapter makes of it.
        return cost._replace(memory=held + tokens * sizes.kept * (size + 2) + PROJECTED_LOGITS * LOGIT_BYTES)

    def embedding(self, texts: Sequence[str]) -> Cost:
        """What the sentence encoder reads of texts; its own tokens are about as many as this model's."""
        some = _spread(texts, SAMPLED)
        if not some:
            return Cost()
        read = sum(len(ids) for ids in self.tokenizer(list(some))["input_ids"])
        share = ENCODER_WEIGHTS / (ENCODER_SHAPE[0] * ENCODER_SHAPE[1])
        seconds = read * share * product_s(ENCODER_SHAPE, meant_here("auto"), READING_TOKENS) / READING_TOKENS
        return Cost(len(some), read, 0, seconds).times(len(texts) / len(some))

    def _loaded(self) -> int:
        # An adapter is merged in float32, then cast.
        size = torch_type(self.model.dtype).itemsize
        return self.sizes.parameters * (4 + size if self.merges and size < 4 else size)

    def _reading_s(self, tokens: int) -> float:
        layer_s = reading_s(self.folder, self.model.dtype, READING_TOKENS)
        return tokens * self.sizes.layers * layer_s / READING_TOKENS

    def _head_s(self, places: int) -> float:
        return product_s(self.sizes.head, self.model.dtype, places)


def estimate(config: RunConfig) -> Iterator[Stage]:
    """All stages of a run in their order. Raises NotKnown where a model's files are not on this disk or of no kind that
    can be counted."""
    base = Engine.of(config.student.untrained(), adapter=config.student.adapter)
    student = base._replace(merges=True)
    prompts = planned(config.curate, seed=config.seed)
    train, probe, validation, exam = (
        [one for one in prompts if one.split == split] for split in ("train", "probe", "validation", "exam")
    )
    yield Stage(name="curate", cost=base.embedding([one.text for one in prompts]))
    taught_before: set[str] = set()
    steps = 0
    reasons = config.train.reasons(config.student.reasoning)
    thought = _thought(config)
    for number in range(config.rounds):
        at = f"round {number}: "
        # At most so many prompts of the probe go wrong; what is asked again was kept.
        new = [one.model_copy(update={"split": "train", "root": one.id}) for one in probe[: config.mine.at_most]]
        train = train + new if number else train
        asked = who_is_asked(config.teach, train)
        cost, notes, replying = Cost(), {}, []
        begun_tokens = config.teach.beginnings.tokens if config.teach.beginnings is not None else 0
        for asks, tokens in ((asked.taught, config.teach.max_tokens), (asked.begun, begun_tokens)):
            for teacher, mine in asks:
                replying += mine
                fresh = [one for one in mine if one.id not in taught_before]
                if isinstance(teacher, Local | PrivilegedContext):
                    chats = [_asked(teacher, one) for one in fresh]
                    cost = cost.then(Engine.of(teacher).replies(chats, tokens + teacher.reasoning.max_tokens))
                else:
                    notes[teacher.name] = f"{teacher.name} ({teacher.kind}) costs no time here"
                    cost = cost.then(Cost(items=len(fresh)))
        avoided = [one for one in asked.avoided if one.id not in taught_before]
        if avoided:
            cost = cost.then(base.replies([one.messages for one in avoided], config.teach.max_tokens))
        yield Stage(name=f"{at}teach", cost=cost, note="; ".join(notes.values()))
        if (risk := config.teach.risk) is not None:
            # What was drawn in an earlier round was kept.
            yield _risk(config, risk, new if number else train, name=f"{at}risk")
        if config.train.who_needs("distribution") or config.train.who_needs("spans"):
            whole = _soft_labels(config, asked.taught, taught_before, config.teach.max_tokens)
            yield Stage(
                name=f"{at}score", cost=whole.then(_soft_labels(config, asked.begun, taught_before, begun_tokens))
            )
        taught_before |= {one.id for one in (*replying, *asked.avoided)}
        with_reply, avoiding = {one.id for one in replying}, {one.id for one in asked.avoided}
        cut = {one.id for _, mine in asked.begun for one in mine}
        refused = {prompt.id: words for prompt, words in asked.refused}
        lessons = [
            Lesson(
                prompt=one,
                # What they say is not known yet, only how long it may be.
                reply="" if one.id in with_reply else refused.get(one.id),
                begun=one.id in cut,
                teacher=HOUSE if one.id in refused else "",
                rejected=("",) if one.id in avoiding else (),
                risk=HARD_RISK[one.conduct],
            )
            for one in {one.id: one for one in train}.values()
        ]
        chosen = choose(config.train, Pool.of(lessons), seed=config.seed, later=number > 0)
        encoder = LessonEncoder(
            base.tokenizer, {}, losses=config.train.losses, context=LONGEST, among=chosen, reasons=reasons
        )
        steps += step_count(config.train, len(chosen))
        yield Stage(name=f"{at}train", cost=base.training(config, encoder, chosen))
        if number + 1 < config.rounds:
            cost = student.replies(
                [one.messages for one in probe if not one.choices], config.mine.answer.max_tokens + thought
            )
            yield Stage(name=f"{at}mine", cost=cost)
    tried = [one.messages for one in validation if one.conduct == "refuse" or one.is_twin]
    once = student.replies(tried, config.strength.answer.max_tokens + thought)
    yield Stage(name="strength", cost=once.times(config.rounds * len(config.strength.tried)))
    encoder = LessonEncoder(base.tokenizer, {}, losses=[CrossEntropy()], context=LONGEST, reasons=reasons)
    for plain in config.baselines:
        recipe = config.model_copy(
            update={"train": plain.recipe(config.train, steps=steps, lessons=max(1, len(lessons)))}
        )
        cost = base.training(recipe, encoder, Pool.of([one for one in lessons if one.is_plain]))
        yield Stage(name=plain.name, cost=cost)
    if (risk := config.teach.risk) is not None:
        yield _risk(config, risk, exam, name="exam: risk")
    yield _exam(config, base, student, exam)


def _risk(config: RunConfig, risk: DrawnRisk | GuardedRisk, prompts: Sequence[Prompt], *, name: str) -> Stage:
    """All draws for the risks of these prompts, or the prompts that a guard is asked about."""
    if isinstance(risk, GuardedRisk):
        cost = Cost(items=len(open_ended(prompts)))
        return Stage(name=name, cost=cost, note=f"what the guard {risk.judge.kind} takes is not counted")
    teacher = config.teach.risk_teacher(risk)
    mine = [one for one in open_ended(prompts) if teacher.is_for(one)]
    if isinstance(teacher, Local | PrivilegedContext):
        chats = [_asked(teacher, one) for one in mine for _ in range(risk.draws)]
        return Stage(name=name, cost=Engine.of(teacher).replies(chats, risk.max_tokens + teacher.reasoning.max_tokens))
    note = f"{teacher.name} ({teacher.kind}) costs no time here"
    return Stage(name=name, cost=Cost(items=len(mine) * risk.draws), note=note)


def _exam(config: RunConfig, base: Engine, student: Engine, exam: Sequence[Prompt]) -> Stage:
    trials = wanted_trials(config.evaluate, exam, seed=config.seed)
    replying = [one.prompt.messages for one in trials if one.wants_reply]
    reasoning = config.student.reasoning
    scored = [score_request(one, reasoning) for one in trials if not one.wants_reply and one.asked != "distribution"]
    trees = [
        Tree(
            prompt_ids(base.tokenizer, one.messages) if one.messages else [0],
            [reply_ids(base.tokenizer, text, ends=False) for text in one.choices],
        )
        for one in scored
    ]
    cost = Cost()
    for engine, thought in ((base, 0), *[(student, _thought(config))] * (len(config.baselines) + 1)):
        cost = cost.then(engine.replies(replying, config.answer.max_tokens + thought)).then(engine.reading(trees))
    teachers = ", ".join(teacher.name for teacher in config.teach.teachers) if config.evaluate.teachers else ""
    return Stage(name="exam", cost=cost, note=f"{teachers} not counted" if teachers else "")


def _soft_labels(
    config: RunConfig, taught: Sequence[tuple[ModelSpec, Sequence[Prompt]]], known: set[str], tokens: int
) -> Cost:
    """One pass over prompts and replies, of `tokens` tokens each, of who says the distributions behind them."""
    cost = Cost()
    for teacher, mine in taught:
        fresh = [one for one in mine if one.id not in known]
        together = Cost()
        for labeller in config.teach.labellers(teacher) if fresh else ():
            if isinstance(labeller, Local | PrivilegedContext):
                together = together.beside(_scored_by(labeller, fresh, tokens + _thought(config)))
        cost = cost.then(together)
    return cost


def _scored_by(labeller: Local | PrivilegedContext, prompts: Sequence[Prompt], max_tokens: int) -> Cost:
    engine = Engine.of(labeller)
    reply = [0] * max_tokens
    # A labeller with a policy is told the reply too.
    more = reply if isinstance(labeller, PrivilegedContext) else []
    chats = [prompt_ids(engine.tokenizer, _asked(labeller, one)) for one in _spread(prompts, SAMPLED)]
    return engine.reading([Tree(chat + more, [reply]) for chat in chats]).times(len(prompts) / len(chats))


def _thought(config: RunConfig) -> int:
    """Tokens that a student which learns to reason may take for it."""
    reasons = config.train.reasons(config.student.reasoning)
    return 0 if reasons is None else reasons.max_tokens


def _asked(model: ModelSpec, prompt: Prompt) -> tuple[Message, ...]:
    return (
        told(prompt.messages, model.policy, model.examples) if isinstance(model, PrivilegedContext) else prompt.messages
    )


def _example(encoder: LessonEncoder, lesson: Lesson, teach: TeachSettings) -> Example:
    """The lesson with a reply, short where it is only begun, and one to avoid that are as long as they may be, and have
    no token in common but for the reasoning before both; what the house says is known. A decision in their midst is
    after as much of them as it may be."""
    one = encoder.example(lesson)
    tokens = teach.beginnings.tokens if lesson.begun and teach.beginnings is not None else teach.max_tokens
    avoided = [1] * teach.max_tokens if lesson.rejected else []
    thought = [2] * encoder.reasons.max_tokens if one.reply and encoder.reasons is not None else one.thought
    reply = one.reply if lesson.by_house else thought + [0] * tokens if one.reply else []
    refuses = lesson.prompt.conduct == "refuse"
    decisions, answer = one.decisions[:1], reply[len(thought) :] if not refuses else avoided if encoder.recover else []
    if decisions and answer and encoder.midway is not None:
        decisions = [*decisions, Deciding(answer[: encoder.within], HARD_RISK[lesson.prompt.conduct], encoder.midway)]
    rejected = [avoided] if avoided and "rejected" in encoder.wants else []
    return one._replace(thought=thought, reply=reply, rejected=rejected, decisions=decisions)


def _batches(trees: Sequence[Tree], *, budget: int) -> list[tuple[int, int]]:
    """Tokens, padding included, and places that predict one, of each batch that the trees make."""
    lengths = [tree_length(tree) for tree in trees]
    made = [collate([[trees[item] for item in row] for row in rows], pad=0) for rows in packed(lengths, budget=budget)]
    return [(batch.ids_BT.numel(), len(batch.scored.row_U)) for batch in made]


def _spread(items: Sequence[Item], at_most: int) -> Sequence[Item]:
    """At most so many of them, evenly spread."""
    return items[:: max(1, math.ceil(len(items) / at_most))]


def _sizes(reference: Reference, adapter: AdapterSettings) -> Sizes:
    """The sizes of a model by its config.json; no weights are read."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(files_of(reference))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise NotKnown(f"{reference.location} is of no kind that transformers knows ({error})") from error
    text = config.get_text_config()
    head = model.get_output_embeddings().weight
    found = [
        (name, part)
        for name, part in model.get_decoder().named_modules()
        if isinstance(part, nn.Linear) and LAYER.search(name)
    ]
    inside = sum(one.numel() for one in model.get_decoder().parameters() if one.ndim > 1) - head.numel()
    if sum(part.weight.numel() for _, part in found) < LINEAR_SHARE * inside:
        raise NotKnown(f"the layers of {reference.location} are not linear layers alone (experts, convolutions)")
    reached = [(name, part) for name, part in found if int(LAYER.findall(name)[0]) >= adapter.first_layer]
    adapted = [
        part for name, part in reached if adapter.target == "all-linear" or name.split(".")[-1] in adapter.target
    ]
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return Sizes(
        parameters=sum(one.numel() for one in model.parameters()),
        adapter=sum(adapter.rank * (part.in_features + part.out_features) for part in adapted),
        head=(head.shape[1], head.shape[0]),
        layers=text.num_hidden_layers,
        reached=max(0, text.num_hidden_layers - adapter.first_layer),
        passed=sum(part.in_features + part.out_features for _, part in found),
        kept=sum(part.in_features + part.out_features for _, part in reached),
        cached=2
        * text.num_hidden_layers
        * heads
        * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads),
    )


def as_rich(stages: Sequence[Stage]) -> Table:
    """The estimate as a table for a console of 100 columns."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(caption=CAPTION, caption_justify="left", pad_edge=False)
    for title in ("stage", "items", "tokens read", "written", "time", "memory"):
        drawn.add_column(title, justify="left" if title == "stage" else "right")
    for stage in stages:
        drawn.add_row(*map(Text, _cells(stage.name, stage.cost)))
    drawn.add_section()
    whole = reduce(Cost.then, (stage.cost for stage in stages), Cost())
    drawn.add_row(*map(Text, _cells("in all", whole._replace(items=0))))
    return drawn


def _cells(name: str, cost: Cost) -> Iterator[str]:
    yield name
    yield from (f"{count:,}" if count else "" for count in (cost.items, cost.read, cost.written))
    most, least = (cost.seconds / share for share in SHARE_REACHED)
    yield f"{_time(least)} - {_time(most)}" if cost.seconds else ""
    yield f"{GROWN * (PROCESS + cost.memory) / 1e9:.1f} GB" if cost.memory else ""


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
