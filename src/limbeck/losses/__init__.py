"""Losses, one file each: tensors in, a value and a weight per unit out."""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from limbeck.losses.anti_teacher import AntiTeacher
from limbeck.losses.contrastive import Contrastive
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.decision import Decision
from limbeck.losses.drift import Drift
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.hidden_states import HiddenStates
from limbeck.losses.jensen_shannon import JensenShannon
from limbeck.losses.noise_consistency import NoiseConsistency
from limbeck.losses.preference import Preference
from limbeck.losses.prompt_contrast import PromptContrast
from limbeck.losses.reverse_kl import ReverseKL
from limbeck.losses.skew_kl import SkewKL
from limbeck.losses.skew_reverse_kl import SkewReverseKL
from limbeck.losses.spec import Loss
from limbeck.losses.total_variation import TotalVariation
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.spec import Table

LOSSES: Table[Loss] = Table(
    "loss",
    Loss,
    CrossEntropy,
    ForwardKL,
    ReverseKL,
    JensenShannon,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
    AntiTeacher,
    CrossTokenizer,
    Decision,
    Unlikelihood,
    Preference,
    Drift,
    NoiseConsistency,
    Contrastive,
    PromptContrast,
    HiddenStates,
)
AnyLoss = Annotated[SerializeAsAny[Loss], BeforeValidator(LOSSES.read)]
