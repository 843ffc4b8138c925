"""The configs of a packed bundle: JSON under the names that consumers open, and able to find the package beside them.

`monai.bundle` puts a bundle's folder on ``sys.path`` only when the run starts: ``initialize``, `monai.bundle.load`,
`MonaiAlgo` and the exporters come before that, and an ``$import`` is evaluated before anything else, in vain. So packed
configs import nothing of ours. They hold two more items: ``bundle_folders``, which asks the callers where the config
lies, and ``desd_components``, which puts that place at the end of ``sys.path`` and is the module. Every expression
refers to it (``$@desd_components.given(...)``) and every component requires it, so it always comes first.
"""

import ast
import fnmatch
import re
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from desd_components.base.errors import UserError
from desd_components.base.manifests import read_manifest
from desd_components.base.version import __version__
from desd_components.runs.config import Place, content, id_of, merged, place_of, references, walk

from .reached import PACKAGE, named

#: what asks for numbers that follow from scans and machine, by id
PLAN = frozenset({"plan", "planned"})
#: what a bundle that carries its part of the package does without, by id or by a name of the package, which has it
WITHOUT = PLAN | {
    *("minutes", "BudgetHandler"),
    *("page", "outlines", "feature_maps", "picture_layout", "dicom_seg"),
    *("DenseProbe", "probe_*", "labelled_cache"),
    *("TerminalProgress", "announce_training", "log_start", "warn_of_equal_boxes"),
}
#: what stands in the place of a call: of all that `plain_errors` looks at, a bundle keeps the names of settings
INSTEAD = {"plain_errors()": "refuse_unknown_settings()"}
GONE = object()

IMPORTS = ("inspect", "pathlib", "pkgutil", "sys")
#: the two folders above each config that a caller reads: a workflow, or one of MONAI's exporters and checkers
BUNDLE_FOLDERS = (
    "$[str(folder) for caller in inspect.stack(0) for place in (caller.frame.f_locals.get('config_file_'), "
    "getattr(caller.frame.f_locals.get('self'), '__dict__', {}).get('config_root_path')) if place "
    "for folder in pathlib.Path(str(monai.utils.ensure_tuple(place)[0])).absolute().parents[:2]]"
)
#: at the end of the path, so that an installed package comes first and is compared with the version packed; no word
#: with `import` in it, for MONAI parses such an expression before its references are resolved
FOUND_PACKAGE = (
    "$[sys.path.append(folder) for folder in [*@bundle_folders, str(pathlib.Path(@bundle_root).absolute())] "
    f"if pathlib.Path(folder, '{PACKAGE}').is_dir() and folder not in sys.path][:0] "
    f"or pkgutil.resolve_name('{PACKAGE}').require_version('{__version__}')"
)


def referring(config: Any) -> Any:
    """`config` with every use of the package as a reference to the item ``desd_components``."""
    if isinstance(config, dict):
        told = {key: referring(value) for key, value in config.items()}
        target = str(told.get("_target_", ""))
        return told | {"_requires_": f"@{PACKAGE}"} if target.startswith(f"{PACKAGE}.") else told
    if isinstance(config, list):
        return [referring(value) for value in config if value != f"$import {PACKAGE}"]
    if isinstance(config, str) and config.startswith("$"):
        for call, other in INSTEAD.items():
            config = config.replace(f"{PACKAGE}.{call}", f"{PACKAGE}.{other}")
        return re.sub(rf"(?<![\w.@]){PACKAGE}\.", f"@{PACKAGE}.", config)
    return config


def self_contained(config: dict[str, Any], gone: set[str]) -> dict[str, Any]:
    """A whole config, as a bundle that carries its part of the package needs it; for `gone` see `without`."""
    told = referring(without(config, gone))
    own = [f"$import {name}" for name in IMPORTS]
    imports = own + [line for line in told.pop("imports", []) if line not in own]
    return {"imports": imports, "bundle_folders": BUNDLE_FOLDERS, PACKAGE: FOUND_PACKAGE, **told}


def without(config: dict[str, Any], gone: set[str]) -> dict[str, Any]:
    """A config, or an overlay, without some of its items, and without what asks for them.

    An entry or a line goes that names one of them or refers to it, and a component whose class or ``_disabled_`` does,
    or of which nothing else is left. What says what holds otherwise, ``$@planned.get('name', 5)``, becomes that.

    Args:
        config: is left as it is.
        gone: patterns of ids, and names of the package; the ids of what goes with them are added.
    """
    count = -1
    while count < len(gone):
        count, left = len(gone), _left(config, (), gone)
    return dict(left)


def _left(value: Any, place: Place, gone: set[str]) -> Any:
    """What is left of the item at a place; `GONE` for nothing."""
    if isinstance(value, list):
        parts = (_left(part, (*place, str(number)), gone) for number, part in enumerate(value))
        return [part for part in parts if part is not GONE]
    if isinstance(value, dict):
        all_parts = {key: _entry(part, (*place, *place_of(key)), gone) for key, part in value.items()}
        kept = {key: part for key, part in all_parts.items() if part is not GONE}
        is_bare = "_target_" in kept and len(kept) == 1 < len(all_parts)
        is_out = GONE in (all_parts.get("_target_"), all_parts.get("_disabled_"))
        return GONE if is_bare or is_out else kept
    if named([value]) & gone:
        return GONE
    if not any(_is_gone(name, gone) for name in references(value)):
        return value
    otherwise = re.fullmatch(r"\$@\w+\.get\('\w+'(?:, (.*))?\)", value)
    if otherwise is None:
        return GONE
    text = otherwise[1] or "None"
    return f"${text}" if "@" in text else ast.literal_eval(text)


def _entry(value: Any, place: Place, gone: set[str]) -> Any:
    """The same of an entry of a mapping, which others may refer to."""
    left = GONE if _is_gone(place, gone) else _left(value, place, gone)
    if left is GONE and place[-1] not in ("_disabled_", "_target_"):
        gone.add(id_of(place))
    return left


def _is_gone(place: Place, gone: set[str]) -> bool:
    return any(fnmatch.fnmatch(id_of(place[:count]), name) for count in range(1, len(place) + 1) for name in gone)


def packed_configs(bundle: Path, requirement: bool = False) -> dict[str, dict[str, Any]]:
    """File name -> config, of the packed form of `bundle`.

    Args:
        bundle: as it stands in the repository.
        requirement: the package is installed where the bundle runs; otherwise the bundle carries its part of it.

    Raises:
        UserError: when a number stands where YAML reads it as text, such as 1e-4.
    """
    configs, model = bundle / "configs", f"{PACKAGE}.bundle_file(@bundle_root, 'models/model.pt')"
    whole = {
        name: content(merged([configs / f"{file}.yaml" for file in files]))
        for name, files in (
            ("train", ("train", "small")),
            ("train_published", ("train",)),
            ("inference", ("inference",)),
        )
    }
    for config in whole.values():
        config["bundle_root"] = "."
    if "class_names" in whole["train"]:  # so that the network of train.json is that of the weights
        whole["train"]["class_names"] = read_manifest(bundle / "models" / "model.pt")["class_names"][1:]
    overlays = {  # as they are: their ids have parents in train.json only
        name: ConfigParser.load_config_file(str(configs / f"{name}.yaml"))
        for name in ("evaluate", "multi_gpu_train", "smoke")
    }
    if "encoder_checkpoint" in overlays["evaluate"]:
        overlays["evaluate"]["encoder_checkpoint"] = f"${model}"
    else:
        overlays["evaluate"]["checkpoint"] = f"${PACKAGE}.run_or_bundle(@output_dir + '/model.pt', {model})"
    if not requirement:
        gone = {name: set(WITHOUT) for name in whole}
        whole = {name: self_contained(config, gone[name]) for name, config in whole.items()}
        overlays = {name: referring(without(config, gone["train"])) for name, config in overlays.items()}
    for name, config in (whole | overlays).items():
        refuse_numbers_as_text(bundle / "configs" / name, config)
    return {f"{name}.json": config for name, config in (whole | overlays).items()}


def refuse_numbers_as_text(place: Path, config: Any) -> None:
    """YAML reads ``1e-4`` as text, and the config fails only where the number is used.

    Raises:
        UserError: naming the first such value.
    """
    for key, value in walk(config):
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
            raise UserError(
                f"{place}: {id_of(key)} is the text {value!r}, not a number. Write it with a point and a sign: 1.0e-4."
            )
