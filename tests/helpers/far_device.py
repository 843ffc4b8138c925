"""A GPU's stand-in where there is none: torch's ``meta`` device, and the places where a program waits for it.

Networks, backward passes and optimisers run there, on shapes alone; a tensor on the wrong device raises. Each question
that only data could answer is noted, as is each copy that a GPU's stream would be waited for, and answered with ones.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.fx.experimental._config import patch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
FAR = torch.device("meta")


class Waits(TorchDispatchMode):
    """Within it, `places` counts where the far device is waited for: "health/skipping.py _is_finite: number"."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if source is not None and function is aten._local_scalar_dense.default and source.is_meta:
            self._note("number")
            return torch.ones((), dtype=source.dtype).item()
        if source is not None and function is aten._to_copy.default:
            target = torch.device(kwargs.get("device") or source.device)
            if source.is_meta and target != FAR:
                self._note("copy back")
                return torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype)
            if not source.is_meta and target == FAR and not kwargs.get("non_blocking"):
                self._note("copy there")
        if function is aten.index.Tensor and any(
            i is not None and i.is_meta and i.dtype == torch.bool for i in args[1]
        ):
            self._note("choice")  # how many are chosen, only the data say
        return function(*args, **kwargs)

    def _note(self, what: str) -> None:
        """Count it for the innermost function of ours, or of MONAI's where none of ours is at work."""
        frame: Any = sys._getframe(2)
        where = {"desd_components": "", "monai": ""}
        while frame is not None and not where["desd_components"]:
            path = Path(frame.f_code.co_filename)
            for package in where.keys() & {*path.parts[:-1]}:
                if not where[package] and path.name != "meta_tensor.py":
                    inside = path.parts[len(path.parts) - path.parts[::-1].index(package) :]
                    where[package] = f"{'/'.join(inside)} {frame.f_code.co_qualname}"
            frame = frame.f_back
        self.places[f"{where['desd_components'] or 'monai/' + where['monai']}: {what}"] += 1


@contextlib.contextmanager
def far_device() -> Iterator[Waits]:
    """Where the meta device is one that computes: it has an autocast that casts nothing, and generators that draw."""
    autocast, generator = torch.autocast, torch.Generator

    def cast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return contextlib.nullcontext() if device_type == FAR.type else autocast(device_type, *args, **kwargs)

    def drawing(device: Any = "cpu") -> torch.Generator:
        return generator("cpu" if torch.device(device) == FAR else device)

    with (
        mock.patch.object(torch, "autocast", cast),
        mock.patch.object(torch, "Generator", drawing),
        patch(meta_nonzero_assume_all_nonzero=True),
        Waits() as waits,
    ):
        yield waits
