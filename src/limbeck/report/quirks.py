"""What the student took over of its teachers beside what it was to learn: faults, phrases, favourites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from limbeck.judges.cues import words_of
from limbeck.judges.outcomes import AS_WRITTEN, Group
from limbeck.records import Origin, Prompt, Scorecard
from limbeck.report.exam import OUTCOMES, TITLES, Exam, Said
from limbeck.report.headline import Cell, Column, Headline, cell, chance, figures, number, span
from limbeck.report.tested import SIGNIFICANCE
from limbeck.stats import QUARTILES, Crossed, adjusted, apart, chance_of, more_often, proportion, went_towards
from limbeck.taxonomy import Conduct

# Words in a phrase; in an opening.
PHRASE_WORDS, OPENING_WORDS = (3, 4, 5), 3
# A phrase in fewer replies is nobody's habit.
LEAST_REPLIES = 3
SHOWN_PHRASES, SHOWN_OPENINGS = 12, 6
ASKED: dict[Conduct, str] = {"refuse": "To refuse", "answer_with_care": "To answer with care", "answer": "To answer"}
CUT = Column(title="Cut short", meaning="replies that were not done at the longest", name="cut_short", better="")


class Item(NamedTuple):
    """A prompt that the teacher has wrong and the student has wrong now, and what each said."""

    prompt: Prompt
    said: tuple[tuple[str, Said], ...]


class Side(NamedTuple):
    """The items that the teacher has right, or wrong: of those right before how many are lost and kept, and of those
    wrong before how many are won and still wrong."""

    title: str
    lost: int
    kept: int
    won: int
    still: int

    @property
    def share(self) -> str:
        """Of what was right before the share that is lost, with its interval."""
        found = proportion([True] * self.lost + [False] * self.kept)
        if found.value is None:
            return "nothing was right before"
        return f"{number(found.value, 'share')}\u00a0% ({span(found.low, found.high, 'share')})"


class Faults(NamedTuple):
    """One teacher's faults in one group of items, and what became of them; the p value as it is for one of the
    teacher's groups, None where nothing can be tested."""

    group: Group
    teacher: str
    crossed: Crossed
    unscored: int
    items: tuple[Item, ...]
    p_adjusted: float | None = None

    @property
    def title(self) -> str:
        return TITLES[self.group]

    @property
    def sides(self) -> tuple[Side, Side]:
        """What the teacher has wrong, then what it has right."""
        good, bad = OUTCOMES[self.group]
        kinds = self.crossed.kinds
        wrong, right = (
            Side(
                f"teacher: {bad if not teacher else good}",
                lost=kinds[teacher, True, False],
                kept=kinds[teacher, True, True],
                won=kinds[teacher, False, True],
                still=kinds[teacher, False, False],
            )
            for teacher in (False, True)
        )
        return wrong, right

    @property
    def chances(self) -> tuple[str, str]:
        """Fisher's exact p that as much is lost on both sides, alone and adjusted."""
        alone, among = ("too few" if one is None else chance(one) for one in (self.crossed.p_value, self.p_adjusted))
        return alone, among


class Habit(NamedTuple):
    """Some words, and in how many replies of each voice they are: so many of so many."""

    words: str
    counts: dict[str, tuple[int, int]]

    def shown(self, voice: str) -> str:
        """The share of the voice's replies."""
        said, of = self.counts[voice]
        return f"{number(said / of, 'share')}\u00a0%" if of else "no reply"


class Length(NamedTuple):
    """The quartiles of a subject's replies, in words."""

    lower: Cell
    median: Cell
    upper: Cell

    @property
    def shown(self) -> str:
        """The median."""
        return self.median.otherwise if self.median.value is None else f"{self.median.value:g}"

    @property
    def spread(self) -> str:
        """Between what half of them are, and how many there are."""
        if self.lower.value is None or self.upper.value is None:
            return self.median.counts if self.median.n else ""
        return f"{self.lower.value:g}–{self.upper.value:g} · {self.median.counts}"


class Favourite(NamedTuple):
    """What a subject likes best of a canary's choices, and with which probability."""

    choice: str
    chance: float

    @property
    def shown(self) -> str:
        return f"{self.choice}, {number(self.chance, 'share')}\u00a0%"


class Canary(NamedTuple):
    """One canary: everybody's favourite, how far the student went, and towards which of the teachers."""

    prompt: Prompt
    favourites: dict[str, Favourite]
    moved: float
    towards: dict[str, bool | None]


@dataclass(frozen=True)
class Quirks:
    """All that the section of the page shows; `voices` are the base, the teachers as one, and the student."""

    origins: tuple[Origin, ...]
    teachers: tuple[str, ...]
    voices: tuple[str, ...]
    replies: int
    faults: tuple[Faults, ...]
    phrases: tuple[Habit, ...]
    openings: tuple[Habit, ...]
    lengths: tuple[tuple[str, tuple[Length, ...]], ...]
    cut: Headline
    canaries: tuple[Canary, ...]
    moves: Headline

    @property
    def shown(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.origins or self.faults or self.openings or self.canaries or self.lengths)


def quirks(exam: Exam, cards: Sequence[Scorecard], origins: Iterable[Origin], *, base: str, student: str) -> Quirks:
    """What the exam's trials and figures show of it. The teachers are those of whom an origin is told."""
    origins = tuple(origins)
    examined = {card.model for card in cards}
    teachers = tuple(one.teacher for one in origins if one.teacher in examined)
    voices = _voices(exam, base, teachers, student)
    return Quirks(
        origins=origins,
        teachers=teachers,
        voices=tuple(voices),
        replies=len(voices[student]),
        faults=tuple(fault for teacher in teachers for fault in _all_faults(exam, base, teacher, student)),
        phrases=tuple(_phrases(voices, base, student)),
        openings=tuple(_openings(voices, student)),
        lengths=tuple(_lengths(cards)),
        cut=figures(cards, [CUT]),
        canaries=tuple(_canaries(exam, base, teachers, student)),
        moves=_moves(cards),
    )


def _all_faults(exam: Exam, base: str, teacher: str, student: str) -> Iterator[Faults]:
    """The teacher's faults in each group that has any items, tested together (Benjamini-Hochberg)."""
    found = [one for group in AS_WRITTEN if (one := _faults(exam, group, base, teacher, student)).crossed.kinds]
    p_of = {one.group: one.crossed.p_value for one in found if one.crossed.p_value is not None}
    p_of = dict(zip(p_of, adjusted(list(p_of.values())), strict=True))
    yield from (one._replace(p_adjusted=p_of.get(one.group)) for one in found)


def _faults(exam: Exam, group: Group, base: str, teacher: str, student: str) -> Faults:
    names = (base, teacher, student)
    first, taught_by, after = (exam.groups[group].get(name, {}) for name in names)
    shared = [item for item in first if item in taught_by and item in after]
    known = {
        item: kind
        for item in shared
        if None not in (kind := (taught_by[item].good, first[item].good, after[item].good))
    }
    taken = sorted(item for item, kind in known.items() if kind == (False, True, False))
    said = dict(zip(names, (first, taught_by, after), strict=True))
    return Faults(
        group=group,
        teacher=teacher,
        crossed=Crossed(Counter((bool(a), bool(b), bool(c)) for a, b, c in known.values())),
        unscored=len(shared) - len(known),
        items=tuple(Item(exam.prompts[item], tuple((name, said[name][item]) for name in names)) for item in taken),
    )


def _voices(exam: Exam, base: str, teachers: Sequence[str], student: str) -> dict[str, dict[str, str]]:
    """The replies of base, teachers and student to the prompts that base and student both replied to. What the teachers
    say of a prompt is what the first of them that replied says: the one that teaches it."""
    both = [item for item in exam.replies.get(student, {}) if item in exam.replies.get(base, {})]
    first = {item: exam.replies[name][item] for name in reversed(teachers) for item in exam.replies.get(name, {})}
    told = {"teachers": {item: first[item] for item in both if item in first}} if teachers else {}
    return {
        base: {item: exam.replies[base][item] for item in both},
        **told,
        student: {item: exam.replies[student][item] for item in both},
    }


def phrases_in(text: str) -> set[str]:
    """Each run of three to five words."""
    words = words_of(text)
    return {" ".join(words[at : at + size]) for size in PHRASE_WORDS for at in range(len(words) - size + 1)}


def _opening(text: str) -> set[str]:
    words = words_of(text)[:OPENING_WORDS]
    return {" ".join(words)} if words else set()


def _counted(
    voices: Mapping[str, Mapping[str, str]], parts: Callable[[str], set[str]]
) -> dict[str, tuple[Counter[str], int]]:
    """For each voice in how many of its replies each part is, and how many replies there are."""
    return {
        name: (Counter(part for reply in replies.values() for part in parts(reply)), len(replies))
        for name, replies in voices.items()
    }


def _phrases(voices: Mapping[str, Mapping[str, str]], base: str, student: str) -> list[Habit]:
    """What the student says in clearly more replies than the base, the clearest first; of phrases that share two
    words in a row the first alone. The p values are adjusted for being many."""
    counted = _counted(voices, phrases_in)
    (now, of), (before, of_before) = counted[student], counted[base]
    often = sorted(words for words, count in now.items() if count >= LEAST_REPLIES)
    z_scores = [more_often(now[words], of, before=before[words], of_before=of_before) for words in often]
    p_values = adjusted([chance_of(z) for z in z_scores])
    clear = [(-z, words) for z, p, words in zip(z_scores, p_values, often, strict=True) if p < SIGNIFICANCE]
    shown: list[str] = []
    for _, words in sorted(clear, key=lambda one: (one[0], -len(one[1]), one[1])):
        if len(shown) < SHOWN_PHRASES and not any(_pairs(words) & _pairs(other) for other in shown):
            shown.append(words)
    return [_habit(words, counted) for words in shown]


def _pairs(words: str) -> set[tuple[str, str]]:
    return set(pairwise(words.split()))


def _openings(voices: Mapping[str, Mapping[str, str]], student: str) -> list[Habit]:
    """How the student begins most of its replies."""
    counted = _counted(voices, _opening)
    common = sorted(counted[student][0].items(), key=lambda one: (-one[1], one[0]))
    return [_habit(words, counted) for words, count in common[:SHOWN_OPENINGS] if count >= LEAST_REPLIES]


def _habit(words: str, counted: Mapping[str, tuple[Counter[str], int]]) -> Habit:
    return Habit(words, {name: (found[words], of) for name, (found, of) in counted.items()})


def _lengths(cards: Sequence[Scorecard]) -> Iterator[tuple[str, tuple[Length, ...]]]:
    """The lengths of each subject by what the prompt asks for, where anybody was measured."""
    for conduct, title in ASKED.items():
        columns = [
            Column(title=of, meaning="", name="reply_words", unit="score", slice={"conduct": conduct, "of": of})
            for of in QUARTILES
        ]
        lengths = tuple(Length(*(cell(card, column) for column in columns)) for card in cards)
        if any(one.median.n for one in lengths):
            yield title, lengths


def _moves(cards: Sequence[Scorecard]) -> Headline:
    """How far each subject but the first and the teachers went in its favourites, and towards whom."""
    having = [card for card in cards if any(one.name == "canary_moved" for one in card.measurements)]
    teachers = dict.fromkeys(
        one.slice["teacher"] for card in having for one in card.measurements if one.name == "canary_towards"
    )
    moved = Column(
        title="Moved",
        meaning="from the first subject's choices, bits: 0 is not at all, 1 is as far as can be",
        name="canary_moved",
        unit="score",
        better="",
    )
    towards = [
        Column(
            title=f"Towards {name}",
            meaning="of the questions on which it moved",
            name="canary_towards",
            better="",
            slice={"teacher": name},
        )
        for name in teachers
    ]
    return figures(having, [moved, *towards] if having else [])


def _canaries(exam: Exam, base: str, teachers: Sequence[str], student: str) -> list[Canary]:
    """The canaries that base and student were both scored on, those that moved most first."""
    found = []
    for item, prompt in exam.canaries.items():
        said = {
            name: exam.chances[name][item] for name in (base, *teachers, student) if item in exam.chances.get(name, {})
        }
        if base in said and student in said:
            found.append(
                Canary(
                    prompt=prompt,
                    favourites={name: _favourite(prompt, chances) for name, chances in said.items()},
                    moved=apart(said[base], said[student]),
                    towards={
                        name: went_towards(said[base], said[student], said[name]) for name in teachers if name in said
                    },
                )
            )
    return sorted(found, key=lambda one: (-one.moved, one.prompt.id))


def _favourite(prompt: Prompt, chances: Sequence[float]) -> Favourite:
    best = max(range(len(chances)), key=chances.__getitem__)
    return Favourite(prompt.choices[best], chances[best])
