"""Guard models: the prompt each was trained on, and how its answer is read."""

from limbeck.judges.guards.granite_guardian import GraniteGuardian
from limbeck.judges.guards.llama_guard import LlamaGuard
from limbeck.judges.guards.moderations import Moderations
from limbeck.judges.guards.qwen3_guard import Qwen3Guard
from limbeck.judges.guards.safeguard import Safeguard
from limbeck.judges.guards.shield_gemma import ShieldGemma
from limbeck.judges.guards.wild_guard import WildGuard

GUARDS = (LlamaGuard, ShieldGemma, GraniteGuardian, Qwen3Guard, WildGuard, Safeguard, Moderations)
