"""Handlers that end a run in the middle, or watch it, for overlays of tests: ``_target_: interruptions.SignalAt``."""

import gc
import io
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from ignite.engine import Events

from desd_components.base import files


class At:
    """Called once, at the end of an iteration, before the state of that iteration is saved, on one process.

    Args:
        iteration: counted from 1 over the whole run.
        rank: of the process that is meant.
    """

    def __init__(self, iteration: int, rank: int = 0) -> None:
        self.iteration, self.is_meant = iteration, int(os.environ.get("RANK", 0)) == rank

    def attach(self, engine: Any) -> None:
        if self.is_meant:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)


class SignalAt(At):
    """Send this process a signal, by its name, such as SIGKILL."""

    def __init__(self, iteration: int, name: str = "SIGKILL", rank: int = 0) -> None:
        super().__init__(iteration, rank)
        self.number = signal.Signals[name]

    def __call__(self) -> None:
        os.kill(os.getpid(), self.number)


class KillLoaderProcess(At):
    """Kill one of the loader's processes, as the kernel does when memory runs out."""

    def __call__(self) -> None:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)


class DyingFile(io.FileIO):
    """Written to its `size`, and half of what comes then."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, "w")
        self.size = size

    def write(self, content: Any) -> int:
        if self.tell() + len(content) <= self.size:
            return super().write(content)
        super().write(bytes(content)[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit


class KillWhileSaving:
    """Die like a power cut in the middle of writing a state, after some bytes of it.

    Args:
        saving: which one, counted from 1.
        share: of a file's first 100 kB that have been written then.
    """

    def __init__(self, saving: int, share: float = 0.5) -> None:
        self.saving, self.size, self.seen = saving, int(share * 100_000), 0

    def attach(self, engine: Any) -> None:
        def opened(path: Path, mode: str, *more: Any) -> Any:
            is_state = path.name == "state.pt.part"  # encoders are written the same way
            self.seen += is_state
            return DyingFile(path, self.size) if is_state and self.seen == self.saving else open(path, mode, *more)

        files.open = opened  # type: ignore


class Watch:
    """Write down at the end of each epoch what this process holds: memory (resident, in kB) and open files.

    Args:
        path: a line of JSON for each epoch.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        seen = {"iteration": engine.state.iteration, "memory": int(status["VmRSS"].split()[0])}
        with open(self.path, "a") as file:
            file.write(json.dumps({**seen, "files": len(os.listdir("/proc/self/fd"))}) + "\n")


class SpoilBatch:
    """Put a NaN into the batch of an iteration, and check that the step leaves no trace on this process.

    Args:
        iteration: counted from 1 over the whole run.
        rank: of the process whose batch it is.
        network, loss: whose tensors are compared before and after.
    """

    def __init__(self, iteration: int, rank: int, network: Any, loss: Any) -> None:
        self.iteration, self.modules = iteration, (network, loss)
        self.is_meant = int(os.environ.get("RANK", 0)) == rank

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED(once=self.iteration), self._spoil)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self._compare)

    def _tensors(self) -> list[Any]:
        return [tensor.clone() for module in self.modules for tensor in module.state_dict().values()]

    def _spoil(self, engine: Any) -> None:
        self.before = self._tensors()
        if self.is_meant:
            engine.state.batch["image"][0] = float("nan")

    def _compare(self) -> None:
        pairs = list(zip(self.before, self._tensors(), strict=True))
        print(f"spoilt step: {len(pairs)} tensors, changed: {sum(not a.equal(b) for a, b in pairs)}")


class SoundAlarm:
    """Let an alarm of the monitor sound on one process.

    Args:
        iteration: after which it sounds, counted from 1 over the whole run; the next look hears it.
        rank: of the process whose alarm it is.
        monitor: of the run; its own alarms are silenced.
    """

    def __init__(self, iteration: int, rank: int, monitor: Any) -> None:
        self.iteration, self.monitor = iteration, monitor
        self.is_meant = int(os.environ.get("RANK", 0)) == rank
        monitor.alarms = []

    def attach(self, engine: Any) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)

    def __call__(self, engine: Any) -> None:
        if self.is_meant:
            self.monitor.sounding = {"uniform_collapse": "The teacher says the same."}
