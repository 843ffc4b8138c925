"""Commands: ``python -m desd_components COMMAND [ARGUMENTS]``, or ``desd COMMAND`` where the package is installed.

Differs from a plain Fire program in two ways: a command's module is imported only when it is called, and a mistyped
flag is refused before the command starts (Fire would run it with the default and complain at the end).

Exit code: 0; 2 after a `UserError`, which is printed as one line; a command that has something to say by its exit code
returns it as an int (``check``: 1 when it found faults).
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Sequence

from desd_components.errors import UserError, ended_plainly

# command: module and function that do it. One line per command.
COMMANDS = {
    "demo": "desd_components.tools.demo:demo",
    "download": "desd_components.tools.download:download",
    "check": "desd_components.tools.check:check",
    "check-config": "desd_components.tools.config_check:check_config",
    "deeplesion": "desd_components.tools.deeplesion:deeplesion",
    "phantom": "desd_components.tools.phantom:write_family",
    "label-curve": "desd_components.tools.label_curve:label_curve",
    "insert": "desd_components.tools.insert:insert",
    "gallery": "desd_components.tools.gallery:gallery",
    "report": "desd_components.tools.report:report",
    "method-figure": "desd_components.tools.method_figure:method_figure",
    "publish": "desd_components.tools.publish:publish",
    "pack": "desd_components.tools.pack:pack",
    "export": "desd_components.tools.export:export",
    "faults": "desd_components.tools.faults:faults",
    "import-official": "desd_components.tools.import_official:import_official",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code, or 2 after printing a `UserError` as one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return ended_plainly(lambda: _run(arguments))


def overview() -> str:
    """One line per command: its name and the first sentence of its docstring."""
    lines = [f"  {name:<15} {(inspect.getdoc(_find(name)) or '').splitlines()[0]}" for name in COMMANDS]
    return "\n".join(["python -m desd_components COMMAND [ARGUMENTS]   (COMMAND --help: its arguments)", "", *lines])


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
    import fire

    name, arguments = words[0], words[1:]
    function = _find(name)
    _refuse_unknown_flags(name, function, arguments)
    result = fire.Fire(function, command=arguments, name=f"desd_components {name}", serialize=lambda _: None)
    return result if isinstance(result, int) else 0


def _refuse_unknown_flags(name: str, function: Callable, arguments: list[str]) -> None:
    known = set(inspect.signature(function).parameters) | {"help"}
    for argument in arguments:
        flag = argument.split("=")[0]
        parameter = flag[2:].replace("-", "_")
        if flag.startswith("--") and parameter and not {parameter, parameter.removeprefix("no")} & known:
            flags = ", ".join(f"--{known_one.replace('_', '-')}" for known_one in sorted(known))
            raise UserError(f"{name}: flag {flag} does not exist. Choose one of: {flags}.")


if __name__ == "__main__":
    sys.exit(main())
