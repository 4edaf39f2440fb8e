"""Harmful prompts asked in harder ways; `ATTACKS` lists how."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from limbeck.attacks.best_of_n import BestOfN
from limbeck.attacks.embedding import Embedding
from limbeck.attacks.encoding import Encoding
from limbeck.attacks.language_switch import LanguageSwitch
from limbeck.attacks.many_shot import ManyShot
from limbeck.attacks.multi_turn import MultiTurn
from limbeck.attacks.past_tense import PastTense
from limbeck.attacks.persuasion import Persuasion
from limbeck.attacks.prefill import Prefill
from limbeck.attacks.role_play import RolePlay
from limbeck.attacks.spec import Attack
from limbeck.spec import Table

ATTACKS: Table[Attack] = Table(
    "attack", Attack,
    RolePlay, Persuasion, Encoding, PastTense, LanguageSwitch, ManyShot, MultiTurn, Prefill, BestOfN,
    Embedding,
)  # fmt: skip
AnyAttack = Annotated[SerializeAsAny[Attack], BeforeValidator(ATTACKS.read)]
