"""Commands in processes of their own: several at once or a chain; shown, logged, and skipped when already done.

Make's idea, with a hash of command, config files and earlier steps in place of dates. A step that was interrupted is
started again in its folder, so that a training resumes; one whose inputs changed starts with a clean folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError

from .commands import quoted
from .machine import peak_memory

LAST_LINES = 15
QUIET_SECONDS = 30  # between two lines of progress where the output is no terminal
GRACE_SECONDS = 10  # for a child to end after it was asked to


@dataclass(frozen=True)
class Step:
    """One command of a chain.

    Args:
        name: of the log and the record; also for `after`.
        title: what it does, in words.
        command: words; the first is ``python``, which is this one.
        output: the folder or file that it makes, removed when its inputs change.
        after: names of the steps whose results it reads.
        reads: files whose content counts as input.
    """

    name: str
    title: str
    command: list[str]
    output: Path
    after: tuple[str, ...] = ()
    reads: tuple[Path, ...] = ()


@dataclass
class Running:
    """A step at work, since when, and its peak memory so far in MB."""

    step: Step
    began: float
    peak_mb: float = 0.0


Tell = Callable[[Step, float, float], None]
Watch = Callable[[Step], None]


class Runner:
    """Runs steps, at most `slots` at once; when this process is stopped, they are too.

    Args:
        root: working directory of the commands.
        logs: folder that gets a ``NAME.log`` of each.
        environment: variables set for them.
        slots: processes at once.
    """

    def __init__(self, root: Path, logs: Path, environment: Mapping[str, str], slots: int = 1) -> None:
        self.root, self.logs, self.environment, self.slots = root, logs, dict(environment), slots
        self.running: dict[subprocess.Popen, Running] = {}

    def log(self, step: Step) -> Path:
        """What a step printed."""
        return self.logs / f"{step.name}.log"

    def run(self, steps: Sequence[Step], finished: set[str], tell: Tell, watch: Watch | None = None) -> None:
        """Run all steps; one starts when those that it comes after are among `finished`, which grows.

        `tell` is handed each finished step, its seconds and its peak memory in MB; `watch` each one at work, again and
        again.

        Raises:
            UserError: when a process fails, after printing the last lines of its log.
        """
        waiting = list(steps)
        with self._stopped_cleanly():
            while waiting or self.running:
                for step in [step for step in waiting if set(step.after) <= finished]:
                    if len(self.running) < self.slots:
                        waiting.remove(step)
                        self.running[self._started(step)] = Running(step, time.monotonic())
                for process, going in list(self.running.items()):
                    going.peak_mb = max(going.peak_mb, peak_memory(process.pid))
                    if watch is not None:
                        watch(going.step)
                    if process.poll() is not None:
                        self._finish(process, finished, tell)
                time.sleep(0.1)

    def _started(self, step: Step) -> subprocess.Popen:
        step.output.parent.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.log(step), "wb") as log:
            return subprocess.Popen(
                [sys.executable, *step.command[1:]],
                cwd=self.root,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches this process alone, which then stops them
            )

    def _finish(self, process: subprocess.Popen, finished: set[str], tell: Tell) -> None:
        going = self.running.pop(process)
        step = going.step
        if process.returncode != 0 or not step.output.exists():
            print_end(self.log(step))
            raise UserError(
                f"{step.title}: ended with exit code {process.returncode}; its whole log is {self.log(step)}. Mend "
                "what it names and start again: what is finished is kept."
            )
        finished.add(step.name)
        tell(step, time.monotonic() - going.began, going.peak_mb)

    def stop(self) -> None:
        """Ask all children to end, and end those that do not."""
        for process in self.running:
            process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for process in self.running:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    @contextmanager
    def _stopped_cleanly(self) -> Iterator[None]:
        """Within it, SIGINT, SIGTERM and errors end the children first; the signals then end this process, too."""
        before = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    print("stopped; the same command goes on from here", flush=True)
    sys.exit(128 + number)


@dataclass
class Record:
    """What a finished step took."""

    name: str
    title: str
    command: str
    key: str
    seconds: float
    peak_mb: float
    skipped: bool = False


def keys(steps: Sequence[Step]) -> dict[str, str]:
    """Name -> hash of the step's command, of the files it reads and of the steps before it."""
    found: dict[str, str] = {}
    for step in steps:
        digest = hashlib.sha256(json.dumps([step.command, [found[name] for name in step.after]]).encode())
        for path in step.reads:
            digest.update(path.read_bytes())
        found[step.name] = digest.hexdigest()[:16]
    return found


class StepRunner:
    """Runs steps one after the other and remembers them under ``folder``.

    Args:
        folder: for ``steps/NAME.json`` and ``logs/NAME.log``.
        root: working directory of the commands, where the package and the bundles lie.
        environment: variables set for the commands, shown with the first of them.
    """

    def __init__(self, folder: Path, root: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.runner, self.started = folder, Runner(root, folder / "logs", environment), time.monotonic()
        self._shown, self._shown_at = "", self.started
        (folder / "steps").mkdir(parents=True, exist_ok=True)

    def run(self, steps: Sequence[Step]) -> list[Record]:
        """Run what is not done yet.

        Raises:
            UserError: when a command fails, after printing the last lines of its log.
        """
        wanted = keys(steps)
        setting = " ".join(f"{name}={value}" for name, value in self.runner.environment.items())
        print(f"commands run in {self.runner.root}" + (f" with {setting}" if setting else ""))
        return [
            self._run(step, wanted[step.name], f"[{self._clock()}] {number}/{len(steps)} {step.title}")
            for number, step in enumerate(steps, start=1)
        ]

    def _run(self, step: Step, key: str, head: str) -> Record:
        path = self.folder / "steps" / f"{step.name}.json"
        note = _read(path)
        same = note.get("key") == key
        if same and note.get("finished") and step.output.exists():
            print(f"{head}: already done, skipped")
            return Record(step.name, step.title, note["command"], key, note["seconds"], note["peak_mb"], skipped=True)
        print(f"{head}\n  {quoted(step.command)}", flush=True)
        if not same:
            _remove(step.output)
        note = {"key": key, "command": quoted(step.command), "finished": False}
        path.write_text(json.dumps(note, indent=1))

        def tell(step: Step, seconds: float, peak: float) -> None:
            note.update({"finished": True, "seconds": round(seconds, 1), "peak_mb": peak})
            start = "\r\x1b[K" if sys.stdout.isatty() else ""
            print(f"{start}  done in {seconds:.0f} s, peak memory {peak:.0f} MB", flush=True)

        self.runner.run([step], set(step.after), tell, self._watch)
        path.write_text(json.dumps(note, indent=1))
        return Record(step.name, step.title, note["command"], key, note["seconds"], note["peak_mb"])

    def _watch(self, step: Step) -> None:
        """Show the last line of the log: always in a terminal, now and then elsewhere."""
        line, now = next(reversed(last_lines(self.runner.log(step))), "").strip(), time.monotonic()
        if sys.stdout.isatty():
            print(f"\r\x1b[K  [{self._clock()}] {line[:100]}", end="", flush=True)
        elif line != self._shown and now - self._shown_at > QUIET_SECONDS:
            print(f"  [{self._clock()}] {line[:110]}", flush=True)
            self._shown, self._shown_at = line, now

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes:2d}:{seconds:02d}"


def print_end(log: Path) -> None:
    """Print the last lines of a log."""
    for line in last_lines(log)[-LAST_LINES:]:
        print(f"  | {line}")


def last_lines(log: Path) -> list[str]:
    """The end of a log, perhaps still being written, without blank lines; carriage returns end progress bars' lines."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip()]


def _read(note: Path) -> dict[str, Any]:
    try:
        return json.loads(note.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _remove(output: Path) -> None:
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)
