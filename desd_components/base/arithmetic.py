"""What networks and optimisers compute, where torch's plain form takes more time and memory than it need.

Maps lie in memory with z slowest: thin volumes, of few slices, are then convolved several times faster on a CPU, for
oneDNN's kernels run along the last axis, and are slow where it is short. Networks turn a volume once, when it comes in,
and their maps once, when they go out; kernels, strides and sizes stay in (x, y, z), for users and in files.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.networks.layers.factories import Norm
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .errors import UserError, one_line

logger = logging.getLogger(__name__)

PROCESSOR = Path("/proc/cpuinfo")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names of what it can be told
KEPT_BYTES = 1 << 30  # of one tensor; larger ones go back to the system


def keep_freed_memory() -> None:
    """Let the next tensor have the memory that the last one left, instead of new pages from the system.

    For trainings on a CPU, whose steps take the same sizes again: filling pages anew costs them a seventh of their
    time. It is glibc that is told; nothing changes elsewhere.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, 2 * KEPT_BYTES - 1)


def require_compiler(wanted: bool, device: torch.device | str) -> None:
    """Try `torch.compile` on this device where it is `wanted`, on a tensor of a size that its cache hardly knows.

    Raises:
        UserError: when it does not work here, for want of a compiler or of support.
    """
    try:
        if wanted:
            torch.compile(lambda x: x + 1)(torch.zeros(time.time_ns() % 10**6, device=device))
    except Exception as error:  # of many kinds
        raise UserError(f"compile: true fails here ({one_line(error)}): use compile: false.") from error


def z_first(x: torch.Tensor) -> torch.Tensor:
    """(B, C, X, Y, Z) -> (B, C, Z, X, Y), in memory as well."""
    return x.permute(0, 1, 4, 2, 3).contiguous()


def z_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, Z, X, Y) -> (B, C, X, Y, Z), a view."""
    return x.permute(0, 1, 3, 4, 2)


class ZFirstConv3d(nn.Conv3d):
    """A convolution of maps (B, C, Z, X, Y) whose kernel (O, C, x, y, z) and stride (x, y, z) are those of volumes.

    The kernel lies in memory as maps do, or it would be copied at each pass, and its gradient once more.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, Z, X, Y) -> (B, O, Z', X', Y')."""
        stride = [self.stride[2], self.stride[0], self.stride[1]]
        padding = [self.padding[2], self.padding[0], self.padding[1]]
        return functional.conv3d(x, self.weight.permute(0, 1, 4, 2, 3), self.bias, stride, padding)  # type: ignore[arg-type]


def with_z_first(network: nn.Module) -> nn.Module:
    """The network, its convolutions made to work on maps (B, C, Z, X, Y); names, shapes and values stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = ZFirstConv3d
            module.weight.data = z_last(z_first(module.weight.data))
    return network


class AffineInstanceNorm3d(nn.InstanceNorm3d):
    """Instance norm of maps (B, C, X, Y, Z), computed as a group norm of C groups: the same with fewer kernels.

    MONAI's factory knows it as "affine_instance"; weights fit those of `torch.nn.InstanceNorm3d`.

    Raises:
        ValueError: when maps have a single voxel, of which nothing would be left.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, X, Y, Z) -> the same shape."""
        if x.size(2) * x.size(3) * x.size(4) == 1:
            raise ValueError("Instance norm leaves nothing of a map of one voxel. Take larger views or lower strides.")
        return functional.group_norm(x, self.num_features, self.weight, self.bias, self.eps)


Norm.add_factory_class("affine_instance", AffineInstanceNorm3d)
#: what a setting names -> a norm of MONAI's factory and its arguments
NORMS = {"instance": ("affine_instance", {}), "batch": ("batch", {}), "group": ("group", {"num_groups": 8})}


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


class FusedSGD(torch.optim.SGD):
    """torch's SGD with momentum, all tensors in one pass, even where some get their first gradient after others.

    torch's own wants momentum of all or none. Momentum that begins with zeros takes the first gradient as it is, as
    long as there is no dampening.

    Args:
        params, lr, momentum, settings: those of `torch.optim.SGD`.
        fused: False for torch's own passes, where a device has no such kernel.
    """

    def __init__(self, params: Any, lr: float, momentum: float, fused: bool = True, **settings: Any) -> None:
        super().__init__(params, lr, momentum, fused=fused, **settings)
        self.register_step_pre_hook(_begin_momentum)


def _begin_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        if optimizer.state[parameter].get("momentum_buffer") is None:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class Muon(torch.optim.AdamW):
    """Muon for kernels: the step turns momentum so that all its directions count alike; AdamW for all else.

    A convolution's kernel (O, I, x, y, z) counts as a matrix (O, I x y z). Its step is the orthogonal matrix nearest to
    Nesterov's momentum, as large as AdamW's steps are (a root mean square of 0.2), times `boost`.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the size of a step: Liu et
    al., "Muon is Scalable for LLM Training", 2025. torch's own takes matrices alone, and no biases beside them.

    Args:
        params: parameter groups; one with ``"muon": False``, such as the last layer's, is left to AdamW.
        lr, settings: those of `torch.optim.AdamW`.
        momentum: of kernels.
        boost: how many times larger than AdamW's the steps of kernels are.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, boost: float = 1.0, **settings: Any) -> None:
        super().__init__(params, lr, **settings)
        for group in self.param_groups:
            group |= {"muon": group.get("muon", True), "momentum": momentum, "boost": boost}
        self.register_step_pre_hook(_move_kernels)


@torch.no_grad()
def _move_kernels(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Move the kernels, and take their gradients away, so that AdamW finds none."""
    for group in optimizer.param_groups:
        for kernel in group["params"]:
            if kernel.ndim < 3 or kernel.grad is None or not group["muon"]:
                continue
            state, rate = optimizer.state[kernel], group["lr"]
            if not state:
                state |= {"step": torch.zeros(()), "momentum_buffer": torch.zeros_like(kernel)}
            state["step"] += 1  # which AdamW asks of every state that it loads
            state["momentum_buffer"].lerp_(kernel.grad, 1 - group["momentum"])
            ahead = kernel.grad.lerp(state["momentum_buffer"], group["momentum"]).flatten(1)
            size = 0.2 * max(ahead.shape) ** 0.5 * group["boost"]
            kernel.mul_(1 - rate * group["weight_decay"])
            kernel.add_(orthogonalised(ahead).view_as(kernel), alpha=-rate * size)
            kernel.grad = None


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix (M, N) -> about the orthogonal one that is nearest to it: singular values from 0.7 to 1.2.

    Directions that the matrix hardly has, of less than a hundredth of its size, get smaller ones.
    Five iterations of Newton and Schulz with the coefficients of Jordan et al. They are polynomials of the smaller of
    the two Gram matrices, which is all that is iterated; that matrix meets the large one twice.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    matrix = matrix / matrix.norm().clamp(min=1e-7)
    gram = matrix @ matrix.T
    turn = one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(5):
        factor = 3.4445 * one - 4.7750 * gram + 2.0315 * gram @ gram
        turn, gram = factor @ turn, factor @ gram @ factor
    return turn @ matrix


@functools.cache
def _say_if_emulated() -> None:
    """Say it once; a processor that tells nothing of itself is believed."""
    if PROCESSOR.is_file() and "bf16" not in PROCESSOR.read_text(errors="replace"):
        logger.warning(
            "amp: true, but this processor has no instructions for bfloat16: it takes many times as long as float32. "
            "Use --amp false."
        )


class SmallMapsInFloat32(TorchFunctionMode):
    """Within it a CPU convolves maps that are smaller than the kernel along an axis in float32, whatever autocast says.

    There the gradient of a kernel in bfloat16 is wrong without a word: oneDNN reads memory that nobody has written, and
    sometimes writes where it must not (torch 2.13). Such are the deepest stages of scans with few slices.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of each of its functions."""
        if func is functional.conv3d and args[0].device.type == "cpu":
            maps, kernel = args[:2]
            if any(size < side for size, side in zip(maps.shape[2:], kernel.shape[2:], strict=True)):
                with torch.autocast("cpu", enabled=False):
                    return func(maps.float(), kernel.float(), *args[2:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class AutocastInferer(Inferer):
    """An inferer whose network computes in bfloat16 where that does no harm, on a CPU as on a GPU; float32 comes out.

    MONAI's trainers and evaluators enter CUDA's autocast alone, whatever the device. bfloat16 has the range of float32,
    so no gradient is scaled.

    Args:
        inferer: what runs the network, such as a `SimpleInferer` or a `SlidingWindowInferer`.
        amp: False leaves the inferer as it is.
    """

    def __init__(self, inferer: Inferer, amp: bool = True) -> None:
        super().__init__()
        self.inferer, self.amp = inferer, amp

    def __call__(self, inputs: Any, network: Callable, *args: Any, **kwargs: Any) -> Any:
        """Volume (B, C, X, Y, Z) -> logits float32; views, or a tuple that begins with some -> the network's output."""

        def cast(windows: Any, *rest: Any, **named: Any) -> Any:
            first = windows
            while not isinstance(first, torch.Tensor):
                first = first[0]
            if first.device.type == "cpu":
                _say_if_emulated()
            with torch.autocast(first.device.type, dtype=torch.bfloat16), SmallMapsInFloat32():
                output = network(windows, *rest, **named)
            return output.float() if isinstance(output, torch.Tensor) else output

        return self.inferer(inputs, cast if self.amp else network, *args, **kwargs)
