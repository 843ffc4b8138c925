"""A forked process leaves the garbage of its parent alone: only threads of the parent may be able to end it."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import exit_code, fork, run_elsewhere


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


def test_elsewhere_nothing_of_this_project_can_be_imported_but_what_is_given(tmp_path: Path) -> None:
    (tmp_path / "given" / "desd_components").mkdir(parents=True)
    (tmp_path / "given" / "desd_components" / "__init__.py").write_text("print('the one that was given')")
    ours = ["-c", "import desd_components"]
    assert "No module named 'desd_components'" in run_elsewhere(ours, tmp_path).stderr
    done = run_elsewhere(ours, tmp_path, tmp_path / "given")
    assert (done.returncode, done.stdout) == (0, "the one that was given\n")
