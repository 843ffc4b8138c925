"""Commands: ``desd COMMAND [ARGUMENTS]``, or ``python -m desd_tools COMMAND`` where nothing is installed.

Differs from a plain Fire program in three ways: a command's module is imported only when it is called, a mistyped flag
is refused before the command starts (Fire would run it with the default and complain at the end), and an argument is
read by its annotation (Fire would make a number of a folder ``2024``, and a truth of ``--checks false``).

Exit code: 0; 2 after a `UserError`, which is printed as one line; a command that has something to say by its exit code
returns it as an int (``check``: 1 when it found faults).
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import logging
import os
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import desd_components
from desd_components.base.errors import UserError
from desd_components.runs.ending import ended_plainly

# command: module and function that do it. One line per command.
COMMANDS = {
    "plan": "desd_tools.short:plan",
    "pretrain": "desd_tools.short:pretrain",
    "finetune": "desd_tools.short:finetune",
    "segment": "desd_tools.short:segment",
    "demo": "desd_tools.studies.demo:demo",
    "download": "desd_tools.data.download:download",
    "check": "desd_tools.check.check:check",
    "deeplesion": "desd_tools.data.deeplesion:deeplesion",
    "phantom": "desd_tools.studies.phantom.phantom:write_family",
    "label-curve": "desd_tools.studies.label_curve:label_curve",
    "gallery": "desd_tools.gallery:gallery",
    "report": "desd_tools.report:report",
    "publish": "desd_tools.pack.publish:publish",
    "pack": "desd_tools.pack.pack:pack",
    "export": "desd_tools.pack.export:export",
    "import-weights": "desd_tools.pack.import_weights:import_weights",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code, or 2 after printing a `UserError` as one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        code = ended_plainly(lambda: _run(arguments))
        sys.stdout.flush()  # here, where a reader that has gone is no error; not when Python ends
        return code
    except BrokenPipeError:  # as of `desd --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def overview() -> str:
    """One line per command: its name and the first sentence of its docstring."""
    lines = [f"  {name:<15} {(inspect.getdoc(_find(name)) or '').splitlines()[0]}" for name in COMMANDS]
    return "\n".join(["desd COMMAND [ARGUMENTS]   (COMMAND --help: its arguments)", "", *lines])


def _find(name: str) -> Callable:
    if name not in COMMANDS:
        raise UserError(f"command {name!r} does not exist. Choose one of: {', '.join(COMMANDS)}.")
    module, function = COMMANDS[name].split(":")
    return getattr(importlib.import_module(module), function)


def _run(words: list[str]) -> int:
    """Run a command; its exit code is what it returns, where that is an int."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(desd_components.__version__)
        return 0
    import fire

    name, arguments = words[0], words[1:]
    function = _find(name)
    if hasattr(function, "bundle"):  # its words are those of a bundle, which refuses what it does not know
        return function(arguments)
    _refuse_unknown_flags(name, function, arguments)
    _refuse_other_arguments(name, function, arguments)
    if not {"--help", "-h"} & {*arguments}:  # Fire's help would list what it is told here as a group of commands
        _read_by_annotations(name, function)
    try:
        result = fire.Fire(function, command=arguments, name=f"desd {name}", serialize=lambda _: None)
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(f"desd {name}: {error.filename}: {error.strerror}: give another path.") from error
    return result if isinstance(result, int) else 0


def _truth(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


def _text_or_none(text: str) -> str | None:
    return None if text.lower() in ("none", "null") else text


# of an annotation: how its argument is read, and what it is called
_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    bool: (_truth, "true or false"),
    str: (str, "a text"),
    str | Path: (str, "a path"),
    str | None: (_text_or_none, "a text"),
}


def _read_by_annotations(name: str, function: Callable) -> None:
    """Tell Fire how to read the arguments of a command; those of other annotations stay Python literals."""
    from fire.decorators import SetParseFn

    hints = typing.get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        if hints.get(parameter.name) in _READERS:
            reader = _reader(name, parameter.name, *_READERS[hints[parameter.name]])
            several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
            SetParseFn(reader, *(() if several else (parameter.name,)))(function)


def _reader(name: str, parameter: str, read: Callable[[str], Any], kind: str) -> Callable[[str], Any]:
    def reader(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, KeyError) as error:
            raise UserError(f"desd {name}: --{parameter.replace('_', '-')} {text}: give {kind}.") from error

    return reader


def _refuse_unknown_flags(name: str, function: Callable, arguments: list[str]) -> None:
    hints = typing.get_type_hints(function)
    known = set(inspect.signature(function).parameters) | {"help"}
    for argument, following in itertools.pairwise([*arguments, "--"]):
        flag = argument.split("=")[0]
        parameter = flag[2:].replace("-", "_")
        if flag.startswith("--") and parameter and not {parameter, parameter.removeprefix("no")} & known:
            flags = ", ".join(f"--{known_one.replace('_', '-')}" for known_one in sorted(known))
            raise UserError(f"desd {name}: flag {flag} does not exist. Choose one of: {flags}.")
        alone = argument.startswith("--") and "=" not in argument and following.startswith("--")
        if alone and hints.get(parameter, bool) is not bool:
            raise UserError(f"desd {name}: flag {flag} has no value. Say {flag}=VALUE.")


def _refuse_other_arguments(name: str, function: Callable, words: list[str]) -> None:
    """Refuse a command without an argument that it needs, or with one too many: Fire prints pages, or runs it first."""
    flags = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    values = [word for before, word in itertools.pairwise(["", *words]) if not before.startswith("--") or "=" in before]
    values = [word for word in values if not word.startswith("-")]
    parameters = inspect.signature(function).parameters.values()
    free = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD and each.name not in flags]
    named = [each for each in parameters if each.kind is each.KEYWORD_ONLY and each.name not in flags]
    if "help" in flags or {"-h", "--"} & {*words}:
        return
    if missing := [each.name for each in [*free[len(values) :], *named] if each.default is each.empty]:
        raise UserError(f"desd {name}: {missing[0].upper()} is missing. Give --{missing[0].replace('_', '-')} VALUE.")
    if len(values) > len(free) and not any(each.kind is each.VAR_POSITIONAL for each in parameters):
        raise UserError(f"desd {name}: {values[len(free)]} is one argument too many. See desd {name} --help.")


if __name__ == "__main__":
    sys.exit(main())
