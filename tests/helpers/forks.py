"""Commands as people start them, in forked processes: importing torch anew would take ten seconds each time.

A forked process has nothing of the test's but what is imported, leaves nothing behind but its files, and can be killed.
"""

import contextlib
import gc
import logging
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TextIO
from unittest import mock

import numpy as np
import torch
import torch._dynamo  # what nearly every run imports late: this, at its first optimiser, for most of its second
import torch.utils.tensorboard

TIMEOUT = 300
PACKAGES = ("desd_components", "desd_tools", "benchmarks")


def bundle_command(words: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> CompletedProcess:
    """What ``python -m monai.bundle WORDS`` says, and its exit code."""
    return _finished(_main("monai.bundle"), words, cwd, environment)


def desd(*words: Any) -> CompletedProcess:
    """What ``desd WORDS`` says, and its exit code."""
    return _finished(_main("desd_tools"), [str(word) for word in words], Path.cwd(), {})


def run_elsewhere(words: Sequence[str], cwd: Path, *folders: Path) -> CompletedProcess:
    """What ``python WORDS`` says, -m or -c, where nothing of this project can be imported but from `folders`."""
    option, what, *more = words
    start = _main(what) if option == "-m" else lambda: exec(what, {"__name__": "__main__"})

    def foreign() -> None:
        _forget_project()
        sys.path[:0] = map(str, folders)
        start()

    return _finished(foreign, more, cwd, {})


def _forget_project() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if not any(Path(folder, name).is_dir() for name in PACKAGES)]
    sys.path_importer_cache.clear()
    sys.dont_write_bytecode = True


def _finished(
    start: Callable[[], Any], words: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> CompletedProcess:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = fork(words, start, cwd, environment, out, err)
        code = exit_code(child, [child], TIMEOUT)
        out.seek(0), err.seek(0)
        return CompletedProcess(words, code, out.read(), err.read())


def _main(module: str) -> Callable[[], Any]:
    """What ``python -m MODULE`` does."""

    def start() -> None:
        for name in (module, f"{module}.__main__"):  # runpy would warn of what is imported already
            if not hasattr(sys.modules.get(name), "__path__"):
                sys.modules.pop(name, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return start


@contextlib.contextmanager
def forked_commands() -> Iterator[None]:
    """Within it, ``python -m MODULE`` is forked wherever `subprocess.Popen` is asked for it."""
    popen = subprocess.Popen

    def forked(command: Sequence[str], **settings: Any) -> Any:
        return _Forked(command, **settings) if command[:2] == [sys.executable, "-m"] else popen(command, **settings)

    with mock.patch.object(subprocess, "Popen", forked):
        yield


class _Forked:
    """What a caller of `subprocess.Popen` asks of a process."""

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: Any, **_: Any) -> None:
        self.child = fork(command[3:], _main(command[2]), cwd, env, stdout, stdout)
        self.pid, self.terminate, self.kill = self.child.pid, self.child.terminate, self.child.kill

    def poll(self) -> int | None:
        return self.child.exitcode

    returncode = property(poll)

    def wait(self, timeout: float | None = None) -> int:
        self.child.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.child.name, timeout or 0)
        return self.returncode


def fork(
    words: Sequence[str], start: Callable[[], Any], cwd: Path, environment: Mapping[str, str], out: TextIO, err: TextIO
) -> Any:
    """Begin a process with these arguments that calls `start`, as if Python had just been started."""
    arguments = words, start, cwd, environment, out, err
    child = multiprocessing.get_context("fork").Process(target=_begin, args=arguments)
    gc.freeze()  # a process group among the garbage of this process would wait for its threads in the child
    try:
        child.start()
    finally:
        gc.unfreeze()
    return child


def _begin(
    words: Sequence[str], start: Callable[[], Any], cwd: Path, environment: Mapping[str, str], out: TextIO, err: TextIO
) -> None:
    os.setpgid(0, 0)
    os.chdir(cwd)
    os.environ.update(environment)
    torch.cuda.is_available = lambda: False  # CUDA_VISIBLE_DEVICES is read once, maybe before the fork
    for number, file in ((1, out), (2, err)):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.argv, sys.excepthook = ["", *words], sys.__excepthook__
    warnings.showwarning = lambda *told: print(warnings.formatwarning(*told[:4]), end="", file=sys.stderr)
    logging.getLogger().handlers.clear()
    logging.getLogger("desd_components").setLevel(logging.NOTSET)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for seed in (random.seed, np.random.seed, torch.seed):  # two processes never draw the same by chance
        seed()
    try:
        start()
    except Exception as error:  # multiprocessing would print it in its own way
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


def exit_code(child: Any, children: Sequence[Any], timeout: float) -> int:
    """Wait for a process: its exit code, or minus the number of the signal that killed it; one that hangs is killed."""
    child.join(timeout)
    if child.exitcode is None:
        kill(child)
        child.join()
    if child.exitcode < 0:  # as torchrun does: the others would wait for one that is gone
        for other in children:
            kill(other)
    return child.exitcode


def kill(child: Any) -> None:
    """Kill a process, and its loader processes: one that was just being started would wait for it for ever.

    It remembers its parent too late to notice that it is gone (torch's `ManagerWatchdog`), and holds open what
    multiprocessing waits for.
    """
    child.kill()
    with contextlib.suppress(ProcessLookupError):  # killed before it had a group of its own
        os.killpg(child.pid, signal.SIGKILL)
