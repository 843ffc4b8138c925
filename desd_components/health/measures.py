"""Figures of health that need no label: how varied features are, how a teacher stands to its student, who learns.

Effective rank: Roy & Vetterli, 2007; as a label-free score: Garrido et al., "RankMe", ICML 2023. Spread: as in Chen
& He, "SimSiam", CVPR 2021. All are functions of tensors, or of modules; when to ask is `monitor`'s concern.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import get_total_norm

ROWS = 2048  # of a parameter, looked at together
SMALL = 65_536  # numbers; parameters of at most so many stand for a module where copies of all would cost memory


def effective_rank(features: torch.Tensor) -> float:
    """How many directions (N, C) features really use: exp of the entropy of their normalised singular values.

    Features are centred first; the result lies between 1 and min(N - 1, C), and is 1 for features that do not vary; NaN
    where one of them is not finite.
    """
    if not torch.isfinite(features).all():
        return math.nan
    centred = features.double() - features.double().mean(dim=0)
    smaller = centred if len(centred) <= centred.shape[1] else centred.T
    return rank_of_gram(smaller @ smaller.T)


def rank_of_gram(gram: torch.Tensor) -> float:
    """The same from the Gram matrix of centred features, in float64: their products, or those of their channels."""
    values = singular_values(gram)
    total = values.sum()
    return 1.0 if total <= 1e-12 else float(torch.exp(torch.special.entr(values / total).sum()))


def singular_values(gram: torch.Tensor) -> torch.Tensor:
    """Those of a matrix whose Gram matrix this is, ascending, to 1e-6 of the largest: faster than an SVD.

    They are the roots of the eigenvalues; those that are but rounding are 0.
    """
    squares = torch.linalg.eigvalsh(gram)
    rounding = len(squares) * torch.finfo(squares.dtype).eps * squares[-1]
    return squares.where(squares > rounding, 0).sqrt()


def spread(features: torch.Tensor) -> float:
    """How far the directions of (N, C) features lie apart: 0 when all point one way, 1 when they cancel out."""
    mean = functional.normalize(features.double(), dim=1).mean(dim=0)
    return float((1 - mean.square().sum()).clamp_min(0).sqrt())


def retrieved(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(N,) 1 where a volume's second view (N, C) is the nearest, by cosine of centred features, to its first."""
    mean = torch.cat([first, second]).mean(dim=0)
    a, b = functional.normalize(first - mean, dim=1), functional.normalize(second - mean, dim=1)
    similarity = a @ b.T
    hit = similarity.argmax(dim=1) == torch.arange(len(a), device=a.device)
    # features that are all the same retrieve nothing, although argmax would name the first
    return (hit & (similarity.amax(dim=1) > similarity.amin(dim=1))).to(first.dtype)


def view_match(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """How often a volume's second view is the nearest to its first within its batch, and how far that is from luck.

    Args:
        batches: features (B, C) of the first and of the second view.

    Returns:
        The share of volumes, and the standard score of their number against guessing (a batch of B: 1 in B); NaN where
        no batch has two volumes.
    """
    hits = expected = variance = volumes = 0.0
    for first, second in batches:
        chance = 1 / len(first)
        hits += float(retrieved(first, second).sum())
        expected, variance, volumes = expected + 1, variance + 1 - chance, volumes + len(first)
    if variance == 0:
        return math.nan, math.nan
    return hits / volumes, (hits - expected) / math.sqrt(variance)


def view_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """How far two views (B, C) of a volume lie apart, over how far volumes do; NaN where volumes do not differ."""
    first, second = first.double(), second.double()
    between = (first - first.mean(dim=0)).norm(dim=1).mean()
    return float((first - second).norm(dim=1).mean() / between) if between > 0 else math.nan


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The norm of the gradient of all parameters; 0 where none has one."""
    return float(get_total_norm([p.grad for p in parameters if p.grad is not None]))


@torch.no_grad()
def relative_distance(module: nn.Module, reference: nn.Module) -> float:
    """|a - b| / |b| over the parameters of `module`, each paired by name with one of `reference`."""
    others = dict(reference.named_parameters())
    pairs = [(p, others[name]) for name, p in module.named_parameters()]
    rows = (zip(*(torch.atleast_1d(x).split(ROWS) for x in pair), strict=True) for pair in pairs)  # no whole copy
    gap = torch.stack([(a - b).norm() for pair in rows for a, b in pair]).norm()
    size = torch.stack([b.norm() for _, b in pairs]).norm()
    return float(gap / size.clamp_min(torch.finfo(size.dtype).tiny))


class Movement:
    """How far tensors have moved since it was last asked.

    Args:
        tensors: gives them as they are now.
    """

    def __init__(self, tensors: Callable[[], Sequence[torch.Tensor]]) -> None:
        self._tensors = tensors
        self._last: list[torch.Tensor] = []

    @torch.no_grad()
    def since_last(self) -> float:
        """The relative distance; NaN when asked for the first time. It is 0 only where not one bit has changed."""
        last, self._last = self._last, [tensor.detach().clone() for tensor in self._tensors()]
        if not last or not self._last:
            return math.nan
        gap = get_total_norm(torch._foreach_sub(self._last, last))
        return float(gap / get_total_norm(self._last)) if gap != 0 else 0.0

    def state_dict(self) -> list[torch.Tensor]:
        """The tensors as last seen."""
        return self._last

    def load_state_dict(self, state: Sequence[torch.Tensor]) -> None:
        """Compare with those of `state` next time."""
        self._last = [kept.to(tensor.device) for kept, tensor in zip(state, self._tensors(), strict=False)]


def small_parameters(module: nn.Module) -> list[torch.Tensor]:
    """The norms, biases and small kernels of a module, which stand for all of it where copies would cost memory."""
    return [parameter for parameter in module.parameters() if parameter.numel() <= SMALL]


def finite_rows(features: torch.Tensor) -> torch.Tensor:
    """The rows of (N, C) features that are finite."""
    return features[torch.isfinite(features).all(dim=1)]
