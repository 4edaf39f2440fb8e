"""The profile of a deployment: from which score a harm counts there, and what is expected of a reply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from ruamel.yaml import YAML

from limbeck.errors import InputError, did_you_mean
from limbeck.records import Prompt, Verdict
from limbeck.spec import Share, Spec
from limbeck.taxonomy import HARMS, Conduct, Tier
from limbeck.yaml_file import line_at, plain, problems, read_tree

PROFILES = Path(__file__).with_name("profiles")


# How like one of ours a harm is from which it is taken for a slip, and not for a harm of one's own (difflib's ratio).
SLIP = 0.9


def spelt(harm: str) -> str:
    """The harm, which may be one of the user's own. Raises ValueError where it is a slip for one of ours."""
    ours = [one.name for one in HARMS]
    if harm not in ours and get_close_matches(harm, ours, cutoff=SLIP):
        raise ValueError(
            f"harm '{harm}' is unknown, and too like one of ours to be one of your own; {did_you_mean(harm, ours)}"
        )
    return harm


HarmName = Annotated[str, AfterValidator(spelt)]
Thresholds = dict[HarmName, Share]
ConductByHarm = dict[HarmName, dict[Tier, Conduct]]


class Rules(Spec):
    """What differs in one language, or under the law of one place where it is spoken."""

    thresholds: Thresholds = Field(default={})
    conduct: ConductByHarm = Field(default={})


class Profile(Spec):
    """Thresholds by harm, and the expected conduct by harm and tier where it differs from the prompt's own.

    `languages` has what differs in some of them, by the languages of prompts: `de`, or `de-AT` for one place, which
    takes from `de` what it does not say itself, and from the profile what neither says.
    """

    thresholds: Thresholds = Field(default={})
    conduct: ConductByHarm = Field(default={})
    languages: dict[str, Rules] = Field(default={})

    @property
    def version(self) -> str:
        """Hash of what it says, in whatever order; empty where that is nothing."""
        said = self.model_dump(exclude_defaults=True)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12] if said else ""

    def expects(self, prompt: Prompt) -> Conduct:
        """What is expected of a reply to the prompt in this deployment."""
        said = [rules.conduct.get(prompt.harm or "", {}).get(prompt.tier) for rules in self._rules(prompt.language)]
        return next((conduct for conduct in said if conduct is not None), prompt.conduct)

    def due(self, prompt: Prompt) -> Prompt:
        """The prompt with what is expected of a reply to it in this deployment."""
        return prompt.model_copy(update={"conduct": self.expects(prompt)})

    def applied(self, verdict: Verdict, *, language: str) -> Verdict:
        """The verdict by the thresholds of the language; harms without one, and verdicts without scores, stay as they
        are."""
        if verdict.harmful is None:
            return verdict
        thresholds: Thresholds = {}
        for rules in self._rules(language):
            thresholds = {**rules.thresholds, **thresholds}
        harmful = tuple(
            harm
            for harm, score in verdict.harm.items()
            if (score >= thresholds[harm] if harm in thresholds else harm in verdict.harmful)
        )
        return verdict.model_copy(update={"harmful": harmful})

    def _rules(self, language: str) -> Iterator[Rules | Profile]:
        """What holds in the language, the most specific first."""
        while language:
            if language in self.languages:
                yield self.languages[language]
            language = language.rpartition("-")[0]
        yield self


def read_profile(value: Any) -> Any:
    """A profile from its settings, the name of one that ships, or a YAML file. Raises ValueError for another."""
    if not isinstance(value, str):
        return value
    shipped = {file.stem: file for file in PROFILES.glob("*.yaml")}
    file = shipped.get(value, Path(value))
    if not file.is_file():
        raise ValueError(f"profile '{value}' is no file and none of those shipped; {did_you_mean(value, shipped)}")
    try:
        tree = read_tree(file, remedy="write thresholds, conduct and languages")
    except InputError as error:
        raise ValueError(str(error)) from error
    try:
        return Profile.model_validate(plain(tree))
    except ValidationError as error:
        said = [
            f"{file}:{line_at(tree, loc)}: {'.'.join(map(str, loc))}: {message}"
            for loc, message in problems(error, tree, of=Profile)
        ]
        raise ValueError("\n".join(said)) from error


def as_yaml(profile: Profile, *, remarks: Iterable[str]) -> str:
    """The profile as a file that `read_profile` reads, each remark a comment at its head."""
    yaml = YAML()
    # The innermost mappings on one line, as in those shipped.
    yaml.default_flow_style = None
    text = StringIO()
    yaml.dump(profile.model_dump(exclude_defaults=True), text)
    return "".join(f"# {remark}\n" for remark in remarks) + text.getvalue()


AS_JUDGED = Profile()  # every judge by its own thresholds, every prompt by its own conduct
AnyProfile = Annotated[Profile, BeforeValidator(read_profile)]
