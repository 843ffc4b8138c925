"""What a command does to a process of its own, seen in that of the test: importing torch anew takes ten seconds."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import runpy
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TextIO
from unittest import mock

import monai.bundle
import numpy as np
import torch

from desd_components.runs import signals
from desd_components.runs.history import history_file
from desd_tools.__main__ import main

MONAI = str(Path(monai.bundle.__file__).with_name("__main__.py"))


def bundle_command(words: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> CompletedProcess:
    """What ``python -m monai.bundle WORDS`` says, and its exit code."""
    start = lambda: runpy.run_module("monai.bundle.__main__", run_name="__main__")  # noqa: E731
    return as_process([MONAI, *words], start, cwd, environment)


def desd(*words: Any) -> CompletedProcess:
    """What ``desd WORDS`` says, and its exit code."""
    told = [str(word) for word in words]
    return as_process(["desd", *told], lambda: sys.exit(main(told)), Path.cwd(), {})


def as_process(
    words: Sequence[str], start: Callable[[], Any], cwd: Path, environment: Mapping[str, str]
) -> CompletedProcess:
    """Call `start` as if a process of these words did nothing else; nothing of it is left behind but its files."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with _fresh(list(words), cwd, environment, out, err):
            code = _exit_code(start)
        for file in (out, err):
            file.seek(0)
        return CompletedProcess(words, code, out.read(), err.read())


def _exit_code(start: Callable[[], Any]) -> int:
    """As Python counts; what it prints at the end of a process is printed."""
    try:
        start()
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


@contextlib.contextmanager
def _fresh(words: list[str], cwd: Path, environment: Mapping[str, str], out: TextIO, err: TextIO) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (sys, "argv", words),
            (sys, "stdout", out),
            (sys, "stderr", err),
            (sys, "excepthook", sys.__excepthook__),
            (signals, "_answered", None),
            (monai.utils.misc, "_seed", None),
            (torch.cuda, "is_available", lambda: False),  # CUDA_VISIBLE_DEVICES is read once a process
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(contextlib.chdir(cwd))
        for own in (_warnings, _logging, _draws, _hooks):
            stack.enter_context(own())
        yield


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    """To stderr, as Python does; pytest would collect them."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda *told: print(warnings.formatwarning(*told[:4]), end="", file=sys.stderr)
        yield


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """No handler but those that the command adds; afterwards those of before."""
    root = logging.getLogger()
    kept = {log: (log.handlers[:], log.level, log.disabled, log.propagate) for log in _loggers()}
    root.handlers, root.level = [], logging.WARNING
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        for log in _loggers():
            log.handlers, log.level, log.disabled, log.propagate = kept.get(log, ([], logging.NOTSET, False, True))
        root.manager._clear_cache()


def _loggers() -> list[logging.Logger]:
    root = logging.getLogger()
    return [root, *(log for log in root.manager.loggerDict.values() if isinstance(log, logging.Logger))]


@contextlib.contextmanager
def _draws() -> Iterator[None]:
    """A process does not draw what the one before it drew: whatever is not seeded shows."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed()
    np.random.seed()
    torch.seed()
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        cudnn.benchmark, cudnn.deterministic = flags[:2]
        torch.use_deterministic_algorithms(flags[2])


@contextlib.contextmanager
def _hooks() -> Iterator[None]:
    hook, threads = threading.excepthook, torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    history_file.cache_clear()
    try:
        yield
    finally:
        threading.excepthook = hook
        torch.set_num_threads(threads)
        history_file.cache_clear()
        for number, handler in handlers.items():
            signal.signal(number, handler)
