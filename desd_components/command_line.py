"""Refuse settings that no config knows: `monai.bundle run` takes a mistyped one in silence and ignores it.

Refused, too, are paths that are none by the time they arrive: a folder ``2024`` is a number to Fire.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import pydoc
from collections.abc import Mapping, Sequence
from typing import Any

import fire
from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver
from monai.bundle import run as bundle_run

from .errors import UserError

#: taken from the command line by `--tracking mlflow`, not by the config
TRACKING_SETTINGS = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "output_dir")


def given_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """``--name value``, ``--name=value`` and ``--flag`` of a command line, values read as Fire reads them."""
    found: dict[str, Any] = {}
    words = list(arguments)
    for place, word in enumerate(words):
        if not word.startswith("--") or len(word) == 2:
            continue
        name, has_value, value = word[2:].partition("=")
        if not has_value:
            following = words[place + 1] if place + 1 < len(words) else "--"
            value = "True" if following.startswith("--") else following
        found[name] = fire.parser.DefaultParseValue(value)
    return found


def is_bundle_command(arguments: Sequence[str]) -> bool:
    """Whether a command line is that of ``python -m monai.bundle run``."""
    program = arguments[0].replace("\\", "/") if arguments else ""
    return program.endswith("monai/bundle/__main__.py") and arguments[1:2] == ["run"]


def refuse_unknown_settings(arguments: Sequence[str]) -> None:
    """Check the command line of a bundle's run; any other is none of our business.

    Raises:
        UserError: naming the first setting that no config has, and the nearest one that exists; or a path that Fire
            takes for a number.
    """
    if not is_bundle_command(arguments):
        return
    given = given_settings(arguments[2:])
    own = set(inspect.signature(bundle_run).parameters) - {"override"}
    if isinstance(given.get("args_file"), str):
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    allowed = own | (set(TRACKING_SETTINGS) if given.get("tracking") else set())
    if "config_file" not in given:
        return
    parser = ConfigParser()
    parser.read_config(given["config_file"])
    for name in given:
        if name not in allowed and not is_known(parser, name):
            raise UserError(unknown_setting(parser, name))
        if is_path(name) and not isinstance(given[name], str | None):
            kind = type(given[name]).__name__
            raise UserError(f"--{name} {given[name]} is read as a {kind}, not as a path: write ./{given[name]}.")


def is_path(name: str) -> bool:
    """Whether a setting names a folder or a file."""
    return name.endswith("_dir") or name in ("checkpoint", "encoder_checkpoint", "data_split", "bundle_root")


def is_known(parser: ConfigParser, name: str) -> bool:
    """Whether `name` is an id of the config, or an argument that its parent's target accepts."""
    name = ReferenceResolver.normalize_id(name)
    if name in parser:
        return True
    parent, _, leaf = name.rpartition("::")
    target = parser[parent] if parent and parent in parser else None
    return isinstance(target, Mapping) and "_target_" in target and accepts(str(target["_target_"]), leaf)


@functools.cache  # MONAI searches all its modules for a bare name
def located(target: str) -> Any:
    """What a target, as configs name it, stands for; None when there is no such thing."""
    try:
        return pydoc.locate(str(ConfigComponent({"_target_": target}).resolve_module_name()))
    except (ImportError, pydoc.ErrorDuringImport):
        return None


def accepts(target: str, argument: str) -> bool:
    """Whether the callable named `target`, as configs name it, takes `argument`."""
    function = located(target)
    if not callable(function):
        return True  # an expression, or something that fails later with its own words
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def unknown_setting(parser: ConfigParser, name: str) -> str:
    """The message: what is not known, and what may have been meant."""
    known = sorted(all_ids(parser.get()))
    wanted = ReferenceResolver.normalize_id(name).replace("::", "#")
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    hint = f" Did you mean --{near[0]}?" if near else ""
    return f"--{name}: the config has no such setting.{hint} The settings stand at the top of the config file."


def all_ids(config: Any, prefix: str = "") -> set[str]:
    """Every id of a config, nested ones joined by ``#``."""
    if not isinstance(config, Mapping):
        return set()
    ids: set[str] = set()
    for key, value in config.items():
        ids |= {prefix + str(key)} | all_ids(value, f"{prefix}{key}#")
    return ids
