"""Compare what runs leave behind: whole states, tensor by tensor, and their figures, line by line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from desd_components.runs.state import read_state


def leaves(content: Any, name: str = "state") -> Iterator[tuple[str, Any]]:
    """Every tensor, number and string of nested containers, by its place."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, f"{name}.{key}")
    elif isinstance(content, list | tuple):
        for place, value in enumerate(content):
            yield from leaves(value, f"{name}.{place}")
    else:
        yield name, content


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and (a == b or (a != a and b != b))  # NaN is a figure that is not known


def differing(one: Path, other: Path) -> list[str]:
    """The places at which the newest states of two run folders differ, bit for bit."""
    a, b = (dict(leaves(read_state(folder / "state.pt"))) for folder in (one, other))
    tensors = [value for value in a.values() if isinstance(value, torch.Tensor)]
    assert len(tensors) > 40, "a comparison of nearly nothing"
    return sorted(name for name in {*a, *b} if name not in a or name not in b or not same(a[name], b[name]))


def figures(folder: Path) -> list[dict[str, float]]:
    """The records of a run without the time that they took."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def ends_like(whole: Path, other: Path) -> bool:
    """A run has the last state, the weights and the figures of another, bit for bit."""
    assert differing(whole, other) == []
    assert figures(whole) == figures(other)
    weights = [path.name for path in whole.glob("*.pt") if not path.name.startswith("state")]
    return all((whole / name).read_bytes() == (other / name).read_bytes() for name in weights)
