"""Shared fixtures: reproducible draws, and the folder of real volumes where there is one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# also without make: tests fork, and a child waits for ever for threads that its parent had
os.environ.setdefault("OMP_NUM_THREADS", "1")
# torch is imported in fixtures, for the process that only hands tests to others needs none of it


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws_in_every_order() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real volumes, named by the environment variable DESD_TEST_DATA."""
    folder = os.environ.get("DESD_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("DESD_TEST_DATA names no folder: real-volume tests are left out")
    return Path(folder).resolve()


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that reach this program's own handlers."""
    numbers: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: numbers.append(n)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose speed a plan knows: to measure it takes seconds."""
    monkeypatch.setattr("desd_components.scans.planning.machine._seconds", lambda device, z: [0.05, 0.05])


@pytest.fixture
def tiny_encoder() -> Any:
    from desd_components import ResNet3DEncoder

    return ResNet3DEncoder(depth=10, width=8, stem_kernel=3, stem_stride=1, stem_pool=False)
