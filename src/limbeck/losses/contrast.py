"""InfoNCE between states of the student: what belongs together against what does not."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from limbeck.losses.spec import Contrasts, Loss


class Contrast(Loss):
    """-log softmax of cosines over `temperature`, of the one that is alike among all; nats, the mean over `layers`.

    What a state is compared with belongs to the lesson, chosen by hash, so it does not hang on the batch. After Oord et
    al. 2018 (arXiv:1807.03748).
    """

    layers: tuple[int, ...] = Field(default=(20,), min_length=1)
    temperature: float = Field(default=0.1, gt=0)

    @property
    def student_layers(self) -> tuple[int, ...]:
        return self.layers

    def info_nce(self, among: Contrasts) -> Tensor:
        """The value at each anchor, shape (C,)."""
        states_JSH = torch.stack([among.states[layer] for layer in self.layers])
        unit_JSH = normalize(states_JSH.to(torch.promote_types(states_JSH.dtype, torch.float32)), dim=-1)
        anchors_JCH, others_JCMH = unit_JSH[:, among.anchor_C], unit_JSH[:, among.others_CM]
        cosine_JCM = torch.einsum("jch,jcmh->jcm", anchors_JCH, others_JCMH)
        cosine_JCM = cosine_JCM.masked_fill(~among.valid_CM, -torch.inf)
        return -(cosine_JCM / self.temperature).log_softmax(-1)[..., 0].mean(0)
