"""A promise: a name, what is promised, the most seconds that it may take, and a function that tries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Card:
    """Where promises are tried.

    Attributes:
        device: "cuda", or "cpu" to rehearse.
        quick: tiny sizes in place of the published ones.
        folder: of this promise alone.
    """

    device: str
    quick: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether it is one."""
        return torch.device(self.device).type == "cuda"

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self.on_gpu:
            torch.cuda.synchronize()


@dataclass
class Found:
    """What came of a promise.

    Attributes:
        held: None where it could not be tried.
        said: in a few words.
        figures: name -> number, text, or list of rows.
        seconds: that it took, the start of Python included.
    """

    held: bool | None
    said: str
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Promise:
    """See the module."""

    name: str
    limit: str
    seconds: float
    tried: Callable[[Card], Found]
