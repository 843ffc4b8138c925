"""Layers of networks whose plain form takes more time and memory than what it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def cosines(embedding: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Embeddings of length 1 (N, D) and prototypes of any length (K, D) -> cosines (N, K).

    It is ``functional.linear(embedding, functional.normalize(prototypes))``, forward and backward, but what it makes of
    the prototypes' size (K, D) is their gradient alone, and nothing where they ask for none.
    """
    if torch.jit.is_scripting() or not torch.is_grad_enabled():
        return _cosines(embedding, prototypes, _inverse_lengths(prototypes))
    return _with_gradient(embedding, prototypes)


def _inverse_lengths(prototypes: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(prototypes, dim=1).clamp_min(1e-12).reciprocal()  # as in `functional.normalize`


def _cosines(embedding: torch.Tensor, prototypes: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    return functional.linear(embedding, prototypes).mul_(inverse)


@torch.jit.unused
def _with_gradient(embedding: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    return _Cosines.apply(embedding, prototypes)


class _Cosines(torch.autograd.Function):
    """The gradient of a prototype is that of its direction: over its length, and without the part along itself."""

    @staticmethod
    def forward(ctx: Any, embedding: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
        inverse = _inverse_lengths(prototypes)
        logits = _cosines(embedding, prototypes, inverse)
        ctx.save_for_backward(embedding, prototypes, inverse, logits)
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        embedding, prototypes, inverse, logits = ctx.saved_tensors
        scaled, of_embedding, of_prototypes = gradient * inverse, None, None  # (N, K)
        if ctx.needs_input_grad[0]:
            of_embedding = scaled @ prototypes
        if ctx.needs_input_grad[1]:
            along = (scaled * logits).sum(dim=0) * inverse
            of_prototypes = (scaled.T @ embedding).addcmul_(prototypes, along[:, None], value=-1)
        return of_embedding, of_prototypes
