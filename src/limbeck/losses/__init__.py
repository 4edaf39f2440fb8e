"""Losses, one file each: tensors in, a value and a weight per unit out."""

from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.decision import Decision
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.jensen_shannon import JensenShannon
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
    Decision,
    Unlikelihood,
)
AnyLoss = Annotated[SerializeAsAny[Loss], BeforeValidator(LOSSES.read)]
