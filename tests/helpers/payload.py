"""A pickle that would be noticed if it were read."""

from pathlib import Path
from typing import Any


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))
