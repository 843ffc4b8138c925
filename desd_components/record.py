"""What a run leaves behind beside its results: its whole config, the versions, the data, the log."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from .bundles import bundle_path
from .checks import require_writable
from .scans import records_hash
from .weights import write_atomically, write_json

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "monai", "numpy", "nibabel", "pytorch-ignite", "scipy", "PyYAML", "pydicom", "SimpleITK")


def calling_workflow() -> ConfigWorkflow | None:
    """The bundle workflow whose config is being evaluated; None outside of one.

    `monai.bundle` hands its config to no expression, so the workflow is looked for among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigWorkflow):
            return caller
        frame = frame.f_back
    return None


def resolved_config(parser: ConfigParser) -> dict[str, Any]:
    """The merged config of all files and overrides, without the metadata, and with the bundle's place spelt out."""
    config = {key: value for key, value in parser.get().items() if key != "_meta_"}
    if config.get("bundle_root") == ".":  # of a packed bundle; the record lies elsewhere, and is to run from there
        config["bundle_root"] = str(bundle_path("."))
    return config


def config_hash(config: Any) -> str:
    """A short hash of a config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def environment(device: Any = None) -> dict[str, Any]:
    """Versions, command, machine and time."""
    from . import __version__

    versions = {"desd_components": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(device),
        "processes": idist.get_world_size(),
        "threads": torch.get_num_threads(),
    }


def start_log(output_dir: str | Path) -> None:
    """Let the run's folder have a ``train.log``, to which each start of the run adds.

    Raises:
        UserError: when the folder cannot be written to.
    """
    if idist.get_rank() == 0:
        log_to(require_writable(output_dir) / "train.log")


def record_run(output_dir: str | Path, device: Any = None, data: dict[str, list[dict[str, Any]]] | None = None) -> None:
    """Write ``config.yaml``, ``environment.json`` and ``data.json`` in the run's folder.

    They tell of the run that left the folder's results, so a run that may yet be refused writes them only afterwards.

    Args:
        output_dir: the run's folder; made if it is not there.
        device: as chosen, for the record.
        data: section -> records.

    Raises:
        UserError: when the folder cannot be written to.
    """
    if idist.get_rank() != 0:
        return
    folder = require_writable(output_dir)
    facts = environment(device)
    workflow = calling_workflow()
    if workflow is not None:
        config = resolved_config(workflow.parser)
        facts["config_hash"] = config_hash(config)
        write_atomically(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, width=120).encode())
    if data is not None:
        facts["data_hash"] = records_hash(data)
        write_json(folder / "data.json", data)
    write_json(folder / "environment.json", facts)


def log_to(path: Path) -> None:
    """Let everything that is logged, down to level DEBUG of this package, go to the file `path` too."""
    root = logging.getLogger()
    if any(isinstance(h, logging.FileHandler) and Path(h.baseFilename) == path.resolve() for h in root.handlers):
        return
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    package = logging.getLogger(__package__)
    if package.level == logging.NOTSET:
        package.setLevel(logging.DEBUG)
        for other in root.handlers:
            if other is not handler and other.level == logging.NOTSET:
                other.setLevel(logging.INFO)  # the file alone sees DEBUG
