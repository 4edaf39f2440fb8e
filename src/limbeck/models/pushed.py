"""A prompt's input embeddings, pushed away from refusing by gradient descent on the weights that will read them.

Axes: O openings, L tokens of the longest, T prompt tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.models.head import logits_of


def pushed(weights: Any, prompt: Sequence[int], openings: Sequence[list[int]], *, steps: int, reach: float) -> Tensor:
    """The prompt's embeddings (T, H) after so many steps that lower the mass of the openings, each token no farther
    from where it was than `reach` times the mean length of an embedding."""
    start_TH = weights.get_input_embeddings()(torch.tensor(prompt, device=weights.device)).detach()
    radius = reach * start_TH.norm(dim=-1).mean()
    moved_TH = torch.zeros_like(start_TH)
    for _ in range(steps):
        moved_TH.requires_grad_()
        mass = log_mass(weights, start_TH + moved_TH, openings)
        (gradient_TH,) = torch.autograd.grad(mass, [moved_TH])
        # Twice the radius in all, so that a token can cross the ball.
        moved_TH = moved_TH.detach() - 2 * radius / steps * _unit(gradient_TH)
        moved_TH = _unit(moved_TH) * moved_TH.norm(dim=-1, keepdim=True).clamp(max=radius)
    return start_TH + moved_TH


def log_mass(weights: Any, prompt_TH: Tensor, openings: Sequence[list[int]]) -> Tensor:
    """Log-probability, nats, that the reply begins with one of the openings."""
    length = max(map(len, openings))
    ids_OL = torch.tensor([[*one, *[0] * (length - len(one))] for one in openings], device=prompt_TH.device)
    is_token_OL = torch.tensor([[at < len(one) for at in range(length)] for one in openings], device=prompt_TH.device)
    # What pads an opening stands behind it, where causal attention does not look.
    behind_OLH = weights.get_input_embeddings()(ids_OL[:, :-1])
    whole = torch.cat([prompt_TH.expand(len(openings), -1, -1), behind_OLH], dim=1)
    hidden_OLH = weights.get_decoder()(inputs_embeds=whole).last_hidden_state[:, len(prompt_TH) - 1 :]
    logprobs_OLV = logits_of(weights, hidden_OLH).log_softmax(-1)
    told_OL = logprobs_OLV.gather(-1, ids_OL[..., None])[..., 0]
    return (told_OL * is_token_OL).sum(-1).logsumexp(0)


def _unit(rows_TH: Tensor) -> Tensor:
    return rows_TH / rows_TH.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(rows_TH.dtype).tiny)


def continued(weights: Any, prompt_TH: Tensor, *, max_tokens: int, ends: Sequence[int]) -> list[int]:
    """The tokens that follow these embeddings greedily, without the one that ends them."""
    with torch.inference_mode():
        made = weights.generate(
            inputs_embeds=prompt_TH[None],
            attention_mask=torch.ones(1, len(prompt_TH), dtype=torch.long, device=prompt_TH.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=list(ends),
            pad_token_id=ends[0],
        )
    tokens: list[int] = made[0].tolist()
    return tokens[:-1] if tokens and tokens[-1] in ends else tokens
