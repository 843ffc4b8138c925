"""Commands as a person would type them, at the repository's root or elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from desd_components.runs.command import SIGNS

from ..places import ROOT


def shown(path: Path, place: Path = ROOT) -> str:
    """A path, relative to the folder where commands are typed where it lies there; no sign of MONAI's stands first."""
    text = str(path.relative_to(place)) if path.is_relative_to(place) else str(path)
    return f"./{text}" if text[:1] in (*SIGNS, "%") else text


def bundle_command(
    word: str, configs: Sequence[str | Path], settings: Mapping[str, Any], place: Path = ROOT
) -> list[str]:
    """The words of ``python -m monai.bundle run WORD --config_file CONFIGS --NAME VALUE ...``; paths are shown."""
    files = [shown(Path(config), place) for config in configs]
    listed = "[" + ",".join(f"'{file}'" for file in files) + "]" if len(files) > 1 else files[0]
    words = ["python", "-m", "monai.bundle", "run", *([word] if word else []), "--config_file", listed]
    for name, value in settings.items():
        words += [f"--{name}", shown(value, place) if isinstance(value, Path) else str(value)]
    return words


def quoted(command: Sequence[str]) -> str:
    """A command as it can be pasted into a shell; lists of files keep their single quotes, inside double ones."""
    plain = (f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in command)
    return " ".join(plain)
