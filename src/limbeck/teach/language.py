"""Which teachers reply in another language than they are asked in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from limbeck.judges.language import other_language
from limbeck.records import Candidate


def telling_languages(drawn: Iterable[Candidate], *, say: Callable[[str], None]) -> Iterator[Candidate]:
    """The draws as they come, and after the last a line about teachers that reply in another language than that of the
    prompt, as far as both can be told."""
    replies: Counter[str] = Counter()
    others: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in drawn:
        yield one
        if one.role == "taught" and not one.by_house and one.finish in ("stop", "length"):
            name = one.teacher or "unnamed"
            replies[name] += 1
            if (language := other_language(one.prompt, one.reply)) is not None:
                others[name][language] += 1
    if others:
        counts = [
            f"{found.total()} of {replies[name]} replies of teacher '{name}' ("
            + ", ".join(f"{language} {count}" for language, count in found.most_common())
            + ")"
            for name, found in others.items()
        ]
        say(
            f"language: {', '.join(counts)} are in another language than their prompts, and those that the judges "
            "accept are learnt; ask the teacher for the prompt's language in a policy, or name a judge in teach.until "
            "that rejects them (docs/teachers.md)"
        )
