"""Settings as people and programs give them: made plain, and refused where no config knows them or they mean nothing.

`monai.bundle.run` takes a mistyped setting in silence and ignores it. Refused are also keys of overlays that no config
before it has and nothing refers to, words in the place of numbers, and paths that MONAI reads as something else.
"""

import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver

from ..base.errors import UserError, innermost_user_error, none_if_null, one_line
from .bundle import calling_parser, calling_run
from .config import (
    DEVICES,
    ENTRIES,
    PATHS,
    all_references,
    content,
    is_argument,
    is_known,
    is_number,
    is_plain,
    merged,
    place_of,
    plain,
    refuse_odd_values,
    unknown_setting,
)
from .ending import is_bundle_command, print_user_errors

#: taken by `--tracking mlflow`, not by the config
TRACKING_SETTINGS = ("tracking_uri", "experiment_name", "run_name", "save_execute_config")
#: what a value means that begins so; MONAI puts in what ``%`` names before any code of ours is loaded
SIGNS = {"$": "is evaluated as Python", "@": "stands for an entry of the config"}


def plain_errors() -> None:
    """The first item of every ``initialize``: errors in one line, and settings that are plain and mean something.

    Raises:
        UserError: for the first setting that does not, or a run that the config has not.
    """
    print_user_errors()
    parser, call = calling_parser(), calling_run()
    if parser is None:
        return
    written = parser
    if call is not None:
        workflow, files, given = call
        written = refuse_odd_call(files, given)
        refuse_unknown_run(workflow.parser, workflow.run_id)
    settle(parser, written)


def refuse_unknown_settings() -> None:
    """What a packed bundle has of `plain_errors`: errors in one line, and no setting that the config has not.

    Raises:
        UserError: naming the first such setting, and the nearest one that exists.
    """
    print_user_errors()
    if (call := calling_run()) is not None:
        _, files, given = call
        parser = merged(_listed_files(files))
        for name in _settings(given):
            _refuse_unknown(parser, name)


def _listed_files(files: Any) -> list[str]:
    files = files.split(",") if isinstance(files, str) else files
    return [str(file) for file in (files if isinstance(files, list | tuple) else [files])]


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given to the config, without MONAI's own arguments."""
    own = {*inspect.signature(ConfigWorkflow).parameters, *(TRACKING_SETTINGS if given.get("tracking") else ())}
    return {name: value for name, value in given.items() if name not in own}


def _refuse_unknown(parser: ConfigParser, name: str) -> None:
    if not is_known(parser, name):
        raise UserError(unknown_setting(parser, name))


def refuse_odd_call(files: Any, given: Mapping[str, Any]) -> ConfigParser:
    """Check what `monai.bundle.run` was called with.

    Args:
        files: of configs, each laid over those before it.
        given: name -> value, those of MONAI's own arguments among them.

    Returns:
        The config as it was written.

    Raises:
        UserError: naming the first setting that no config has, and the nearest one that exists; or one that is a word
            where the config has a number, or that no config can hold.
    """
    parser = refuse_unknown_keys(_listed_files(files))
    for name, value in _settings(given).items():
        _refuse_unknown(parser, name)
        if value is None and parser.get(name) is not None:
            raise UserError(f"--{name} None: MONAI passes over it. Give null, in a program 'null', or leave it out.")
        if not is_plain(plain(value)):
            kind = type(value).__name__
            raise UserError(f"--{name}: a config holds no {kind}. Give text, a number, a list, a mapping or 'null'.")
        _refuse_mere_word(parser, f"--{name}", name, plain(value))
        _refuse_comment(name, value)
        parser.set(value, name)
    return parser


def refuse_unknown_run(parser: ConfigParser, name: str) -> None:
    """Refuse to run what is no list of expressions: MONAI builds a part of the config in its place, and ends well.

    Raises:
        UserError: naming what can be run.
    """
    lines = parser.get(name)
    lines = lines if isinstance(lines, list) else [lines]
    if not all(isinstance(line, str) and line.startswith("$") for line in lines):
        known = [entry for entry in ("run", "training", "inference") if entry in parser]
        raise UserError(f"run {name}: the config has nothing of that name to run. Give {' or '.join(known)}.")


def settle(parser: ConfigParser, written: ConfigParser) -> None:
    """Let the config that is being evaluated hold plain values, paths with their home's ``~`` put in.

    MONAI reads each ``#`` of a text as ``::``, that of a path, too: here texts are as written. Paths and devices are
    looked at as they will be used.

    Args:
        parser: of the run; changed.
        written: the same, before MONAI read it.

    Raises:
        UserError: for the first setting whose value means nothing.
    """
    config = parser.get()
    config |= plain(content(parser))
    parser.parse()
    plainly = plain(content(written))
    refuse_odd_values(plainly)
    literal = {name: value for name, value in plainly.items() if _is_literal(value)}
    literal |= {name: os.path.expanduser(literal[name]) for name in PATHS if isinstance(literal.get(name), str)}
    config |= literal
    parser.ref_resolver.resolved_content |= literal
    for name in (*PATHS, *DEVICES):
        if isinstance(value := plainly.get(name), str) and value[:1] in SIGNS:
            found = _evaluated(parser, name, value)
            refuse_odd_values({name: found})
            parser.ref_resolver.resolved_content[name] = found


def _is_literal(value: Any) -> bool:
    """Whether a value is text, or a list of texts, that says nothing to MONAI."""
    texts = value if isinstance(value, list) else [value]
    return all(isinstance(text, str) and text[:1] not in (*SIGNS, "%") for text in texts)


def _evaluated(parser: ConfigParser, name: str, value: str) -> Any:
    try:
        return plain(parser.get_parsed_content(name))
    except Exception as error:
        if innermost_user_error(error) is not None:
            raise
        is_there = value[0] == "$" or value[1:] in parser
        reason = one_line(error) if is_there else "there is none of that name"
        raise UserError(
            f"{name}: {value!r} begins with {value[0]}, so it {SIGNS[value[0]]}, which fails ({reason}). "
            f"Write {'./' + value!r} for a path of that name, or the whole path where a variable was meant."
        ) from error


def _refuse_comment(name: str, value: Any) -> None:
    """Fire reads words as Python does where it can, and so what follows ``#`` as a comment."""
    for word in sys.argv if is_bundle_command(sys.argv) else []:
        before, sign, _ = (written := word.removeprefix(f"--{name}=")).partition("#")
        if sign and before.strip() == value:
            raise UserError(f"--{name}: of {written} only {value} arrives, for # begins a comment. Write ./{written}.")


def _refuse_mere_word(parser: ConfigParser, told: str, name: str, value: Any) -> None:
    name = ReferenceResolver.normalize_id(name)
    before = parser.get(name, None)
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return
    if isinstance(before, bool) and value not in (True, False, None, "true", "True"):  # all else would count as true
        raise UserError(
            f"{told} {value}: True or False stands there in the config ({before}): give one, as written here."
        )
    may_be_list = "::" in name and not isinstance(value, str)  # as many arguments may
    if is_number(before) and not may_be_list and not is_number(value) and none_if_null(value) is not None:
        raise UserError(f"{told} {value}: a number stands there in the config ({before}): give one.")


def refuse_unknown_keys(files: Sequence[str]) -> ConfigParser:
    """Check the keys of overlays: each is in a config before it, or is referred to.

    Args:
        files: of configs, each laid over those before it.

    Returns:
        The config that they make.

    Raises:
        UserError: naming the file, the key, and the nearest one that exists.
    """
    stages = [merged(files[: count + 1]) for count in range(len(files))]
    referred = [all_references(stage.get()) for stage in stages]
    for count, file in enumerate(files[1:], start=1):
        before, after, overlay = stages[count - 1], stages[count], ConfigParser.load_config_file(file)
        for name, value in overlay.items():
            _refuse_mere_word(before, f"{file}: {name}:", name, value)
        for name in _added(overlay, before):
            if is_argument(after, name):  # of another target, which the overlay itself names
                continue
            # by itself or a later overlay, which may take away again what refers to it
            later = {(entry,) for entry in (*ENTRIES, "_meta_")}.union(*referred[count:])
            place = place_of(name)
            if not any(other[: len(place)] == place for other in later):
                raise UserError(f"{file}: {unknown_setting(before, name, dashes='')}")
    return stages[-1]


def _added(overlay: Mapping[str, Any], before: ConfigParser, prefix: str = "") -> Iterator[str]:
    """The ids that an overlay adds to the config before it; a component brings arguments of its own."""
    for key, value in overlay.items():
        name = prefix + ReferenceResolver.normalize_id(str(key).removeprefix("+"))
        if not is_known(before, name):
            yield from () if _is_one_of_many(name, value, before) else (name,)
        elif _is_section(value) and _is_section(before[name]) and not name.endswith("kwargs"):
            yield from _added(value, before, f"{name}::")


def _is_one_of_many(name: str, value: Any, before: ConfigParser) -> bool:
    """Whether an id stands among others of its kind: a further metric, or a further part of the run."""
    parent = name.rpartition("::")[0]
    is_component = isinstance(value, Mapping) or str(value).startswith("@")
    return is_component and bool(parent) and _is_section(before.get(parent))


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" not in value
