"""Sinkhorn-Knopp centring: targets that use every prototype equally often within a batch.

Method: Cuturi, "Sinkhorn distances", NeurIPS 2013, as used by Caron et al., "SwAV", NeurIPS 2020, and Oquab et al.,
"DINOv2", 2023, in place of a running center. Not part of DeSD: the published recipe keeps the running center.
"""

from __future__ import annotations

import torch

from ..base.processes import sum_over_processes


@torch.no_grad()
def sinkhorn(logits: torch.Tensor, temperature: float, iterations: int = 3) -> torch.Tensor:
    """The softmax of N rows over K prototypes, rescaled until each prototype gets an equal share of the rows.

    Args:
        logits: (N, K) of this process; columns are balanced over all processes.
        temperature: softmax divisor; the lower, the more one-sided the rows.
        iterations: rounds of column and row normalisation; the rows come last.
    """
    scores = (logits.float() / temperature).softmax(dim=1)
    for _ in range(iterations):
        columns = sum_over_processes(scores.sum(dim=0))
        scores = scores / columns.clamp_min(torch.finfo(torch.float32).tiny)
        scores = scores / scores.sum(dim=1, keepdim=True)
    return scores
