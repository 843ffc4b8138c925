"""A forked process leaves the garbage of its parent alone: only threads of the parent may be able to end it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import exit_code, fork


class _Ring:
    """Garbage that only a collection finds, and that says which process collected it."""

    def __init__(self, collected_by: list[int]) -> None:
        self.ring, self.collected_by = self, collected_by

    def __del__(self) -> None:
        self.collected_by.append(os.getpid())


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Garbage stays until a test collects it."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_a_forked_process_does_not_collect_the_garbage_of_its_parent(tmp_path: Path) -> None:
    collected_by: list[int] = []
    _Ring(collected_by)

    def collect() -> None:
        gc.collect()
        print("collected by", collected_by)

    with open(tmp_path / "said.txt", "w") as said:
        child = fork([], collect, tmp_path, {}, said, said)
        assert exit_code(child, [child], timeout=60) == 0
    assert (tmp_path / "said.txt").read_text() == "collected by []\n"
    gc.collect()
    assert collected_by == [os.getpid()]
