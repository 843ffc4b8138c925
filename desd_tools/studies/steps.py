"""A chain of commands, each in a process of its own: shown as it can be copied, logged, and skipped when already done.

Where from: ours; make's idea, with a hash of command, config files and earlier steps in place of dates. A step that
was interrupted is started again in its folder, so that a training resumes; one whose inputs changed starts with a
clean folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError

LAST_LINES = 15
QUIET_SECONDS = 30  # between two lines of progress where the output is no terminal


@dataclass
class Step:
    """One command.

    Args:
        name: of the log and the record; also for `after`.
        title: what it does, in words.
        command: words; the first is ``python``.
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
class Record:
    """What a finished step took."""

    name: str
    title: str
    command: str
    key: str
    seconds: float
    peak_mb: float
    skipped: bool = field(default=False)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def child_environment(most_threads: int) -> dict[str, str]:
    """Variables for child processes that run torch: no more threads than cores are free, and none that spins.

    By default a thread of torch's OpenMP (libgomp) that waits for the others keeps its core busy. Beside other programs
    that is the core which the others need. What the user has set stays.
    """
    free = usable_cores() - round(os.getloadavg()[0])
    wanted = {"OMP_NUM_THREADS": str(max(1, min(most_threads, free))), "OMP_WAIT_POLICY": "passive"}
    return {name: os.environ.get(name) or value for name, value in wanted.items()}


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
    """Runs steps in order and remembers them under ``folder``.

    Args:
        folder: for ``steps/NAME.json`` and ``logs/NAME.log``.
        root: working directory of the commands, where the package and the bundles lie.
        environment: variables set for the commands, shown with the first of them.
    """

    def __init__(self, folder: Path, root: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.root, self.environment = folder, root, dict(environment)
        self.started = time.monotonic()
        for part in ("steps", "logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def run(self, steps: Sequence[Step]) -> list[Record]:
        """Run what is not done yet.

        Raises:
            UserError: when a command fails, after printing the last lines of its log.
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running command is stopped too
        wanted, records = keys(steps), []
        setting = " ".join(f"{name}={value}" for name, value in self.environment.items())
        print(f"commands run in {self.root}" + (f" with {setting}" if setting else ""))
        for number, step in enumerate(steps, start=1):
            head = f"[{self._clock()}] {number}/{len(steps)} {step.title}"
            done = self._done(step, wanted[step.name])
            if done:
                print(f"{head}: already done, skipped")
            else:
                print(f"{head}\n  {quoted(step.command)}", flush=True)
                done = self._start(step, wanted[step.name])
            records.append(done)
        return records

    def _note(self, step: Step) -> Path:
        return self.folder / "steps" / f"{step.name}.json"

    def _done(self, step: Step, key: str) -> Record | None:
        """The step's record, if it finished with the same inputs and its result is still there."""
        note = _read(self._note(step))
        if note.get("key") != key or not note.get("finished") or not step.output.exists():
            return None
        return Record(step.name, step.title, note["command"], key, note["seconds"], note["peak_mb"], skipped=True)

    def _start(self, step: Step, key: str) -> Record:
        if _read(self._note(step)).get("key") != key:
            _remove(step.output)
        note: dict[str, Any] = {"key": key, "command": quoted(step.command), "finished": False}
        self._note(step).write_text(json.dumps(note, indent=1))
        step.output.parent.mkdir(parents=True, exist_ok=True)
        log, began = self.folder / "logs" / f"{step.name}.log", time.monotonic()
        command = [sys.executable, *step.command[1:]]
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, cwd=self.root, env={**os.environ, **self.environment}, stdout=output, stderr=subprocess.STDOUT
            )
            status, peak = self._follow(process, log)
        seconds = round(time.monotonic() - began, 1)
        if status != 0:
            self._fail(step, status, log)
        note |= {"finished": True, "seconds": seconds, "peak_mb": peak}
        self._note(step).write_text(json.dumps(note, indent=1))
        print(f"  done in {seconds:.0f} s, peak memory {peak:.0f} MB", flush=True)
        return Record(step.name, step.title, note["command"], key, seconds, peak)

    def _follow(self, process: subprocess.Popen, log: Path) -> tuple[int, float]:
        """Show the log's last line until the process ends. Returns its exit code and peak memory in MB."""
        shown, last, peak = "", time.monotonic(), 0.0
        try:
            while process.poll() is None:
                peak = max(peak, peak_memory(process.pid))
                line, now = last_line(log), time.monotonic()
                if sys.stdout.isatty():
                    print(f"\r\x1b[K  [{self._clock()}] {line[:100]}", end="", flush=True)
                elif line != shown and now - last > QUIET_SECONDS:
                    print(f"  [{self._clock()}] {line[:110]}", flush=True)
                    shown, last = line, now
                time.sleep(0.2)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")
        return process.returncode, peak

    def _fail(self, step: Step, status: int, log: Path) -> None:
        print_end(log)
        raise UserError(
            f"step {step.name} ({step.title}) ended with exit code {status}; its whole log is {log}. Mend what it "
            "names and start again: finished steps are kept."
        )

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes:2d}:{seconds:02d}"


def peak_memory(process_id: int) -> float:
    """Peak resident memory so far in MB; 0 where the system does not tell (it is no Linux, or the process ended).

    Not the kernel's ru_maxrss, in which a child starts with the memory of the process that started it.
    """
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return 0.0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return round(int(lines[0][1]) * 1024 / 1e6, 1) if lines else 0.0


def quoted(command: Sequence[str]) -> str:
    """A command as it can be pasted into a shell; lists of files keep their single quotes, inside double ones."""
    plain = (f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word) for word in command)
    return " ".join(plain)


def last_line(log: Path) -> str:
    """The last line of a log that is still being written; progress bars end theirs with a carriage return."""
    return next(reversed(_last_lines(log, 2000)), "").strip()


def print_end(log: Path) -> None:
    """Print the last lines of a log."""
    for line in _last_lines(log, 20000)[-LAST_LINES:]:
        print(f"  | {line}")


def _last_lines(log: Path, size: int) -> list[str]:
    """What the last `size` bytes of a log hold, without blank lines."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
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
