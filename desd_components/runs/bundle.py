"""Where a bundle lies, and whether this package is the one that it was packed with.

`monai.bundle` tells no expression which file it stands in, and puts a bundle's folder on ``sys.path`` only when the
run starts, after ``initialize``. So the callers are asked: a workflow knows the folder of its configs, MONAI's
exporters and checkers hold the path of theirs, and MONAI Deploy's operator that of its bundle. A packed config asks in
the same way, before this package can be imported; see `desd_tools.pack.packed_configs`.
"""

import hashlib
import inspect
import json
import logging
import sys
import traceback
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from monai.utils import ensure_tuple

from ..base.errors import UserError
from ..base.version import __version__
from .config import content, id_of, plain, walk
from .ending import print_user_errors

logger = logging.getLogger(__name__)


def _callers() -> list[FrameType]:
    """The calls that led here, the innermost first."""
    return [frame for frame, _ in traceback.walk_stack(inspect.currentframe())]


def own_bundle() -> Path | None:
    """The bundle whose config is being evaluated; None where that is no bundle's, or no caller knows its folder."""
    folder = next(filter(None, map(_config_folder, _callers())), None)
    return folder.parent if folder is not None and (folder / "metadata.json").is_file() else None


def _config_folder(frame: FrameType) -> Path | None:
    names = frame.f_locals
    if names.get("config_file_"):  # in monai.bundle's ckpt_export, onnx_export, verify_net_in_out
        return Path(str(ensure_tuple(names["config_file_"])[0])).absolute().parent
    caller = getattr(names.get("self"), "__dict__", {})
    if caller.get("config_root_path") is not None:  # a ConfigWorkflow's
        return Path(caller["config_root_path"]).absolute()
    bundle = caller.get("_bundle_path")  # a MonaiBundleInferenceOperator's, which leaves `bundle_root` as it is
    return None if bundle is None else (Path(bundle) / "configs").absolute()


def bundle_path(bundle_root: str | Path) -> Path:
    """`bundle_root`; the bundle whose config is being evaluated for ".", and for a relative path that is not there.

    So a bundle is found from any working directory.
    """
    root = Path(bundle_root)
    is_there = str(root) != "." and (root.is_absolute() or root.is_dir())
    return root if is_there else own_bundle() or root


def bundle_file(bundle_root: str | Path, name: str) -> str:
    """The path of a file of a bundle.

    Args:
        bundle_root: as configs have it; see `bundle_path`.
        name: relative to the bundle, such as models/model.pt.
    """
    return str(bundle_path(bundle_root) / name)


def run_or_bundle(run_weights: str | Path, bundle_weights: str | Path) -> str:
    """The weights that a run left, or a bundle's own where it left none; the log says which."""
    if Path(run_weights).is_file():
        logger.info("weights of the run: %s", run_weights)
        return str(run_weights)
    logger.warning("%s does not exist: the weights are the bundle's own, %s.", run_weights, bundle_weights)
    return str(bundle_weights)


def require_version(version: str) -> ModuleType:
    """This package, for a bundle that was packed with `version` of it.

    Raises:
        UserError: when another version is loaded, because it is installed or belongs to another bundle.
    """
    print_user_errors()
    if __version__ != version:
        raise UserError(
            f"This bundle was packed with desd_components {version}, but {__version__} was found first, in "
            f"{Path(__file__).parents[1]}. Uninstall that one, or install desd-components=={version}."
        )
    return sys.modules["desd_components"]


def calling_parser() -> ConfigParser | None:
    """The parser of the config that is being evaluated; None outside of one.

    `monai.bundle` hands its config to no expression, so the parser is looked for among the callers.
    """
    callers = (frame.f_locals.get("self") for frame in _callers())
    return next((caller for caller in callers if isinstance(caller, ConfigParser)), None)


def calling_run() -> tuple[ConfigWorkflow, Any, dict[str, Any]] | None:
    """What `monai.bundle.run` was called with, from the command line or a program; None outside of it.

    Returns:
        The workflow that it made, the config files, and name -> value of all else, with those of ``args_file``. MONAI
        passes over settings that are None; they are among them.
    """
    for frame in _callers():
        if frame.f_code is create_workflow.__code__:
            names = frame.f_locals
            nothing = {name: None for name, value in names["kwargs"].items() if value is None}
            return names["workflow_"], names["config_file"], nothing | names["_args"]
    return None


def given_number(name: str) -> list[Any]:
    """The value of an entry of the config that is being evaluated, as a list of one; none where it asks the plan."""
    parser = calling_parser()
    if parser is None or name not in parser or asks_plan(parser[name]):
        return []
    return [parser.get_parsed_content(name)]


def asks_plan(value: Any) -> bool:
    """Whether an entry of a config takes its value from the plan."""
    return isinstance(value, str) and "@planned." in value


def calling_config() -> dict[str, Any] | None:
    """The config that is being evaluated, of all files and overrides, without the metadata; None outside of one.

    The bundle's place is spelt out, and so is what the config takes from the plan.
    """
    parser = calling_parser()
    if parser is None:
        return None
    config: dict[str, Any] = plain(content(parser))
    if "bundle_root" in config:  # the record lies elsewhere, and is to run from there
        config["bundle_root"] = str(bundle_path(config["bundle_root"]))
    record = ConfigParser(config)
    for place, value in list(walk(config)):
        if asks_plan(value):
            record[id_of(place)] = parser.get_parsed_content(id_of(place))
    return record.get()


def config_hash(config: Any) -> str:
    """A short hash of a config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]
