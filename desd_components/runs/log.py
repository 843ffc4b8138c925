"""What a run leaves behind beside its results: its whole config, the versions, the data, the log."""

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import yaml

from ..base.files import require_writable, write_atomically, write_json
from ..base.version import __version__
from ..scans.fingerprint import records_hash
from .bundle import calling_config, config_hash

PACKAGES = ("torch", "monai", "numpy", "nibabel", "pytorch-ignite", "scipy", "PyYAML", "pydicom", "SimpleITK")


def environment(device: Any = None) -> dict[str, Any]:
    """Versions, command, machine and time."""
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
        "machine": machine(device),
        "commit": commit(),
        "processes": idist.get_world_size(),
        "threads": torch.get_num_threads(),
    }


def start_log(output_dir: str | Path, part: str = "train") -> None:
    """Let the run's folder have a log, ``train.log`` or that of another part, to which each start of the run adds.

    Raises:
        UserError: when the folder cannot be written to.
    """
    if idist.get_rank() == 0:
        log_to(require_writable(output_dir) / f"{part}.log")


def machine(device: Any = None) -> str:
    """The GPU's name where `device` is one, else the system, the processor and how many cores there are."""
    if device is not None and torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """The commit that this package stands at, "-dirty" after it where files are changed; None outside of git."""
    place = Path(__file__).resolve()
    known = ["git", "-C", str(place.parent), "ls-files", "--error-unmatch", place.name]  # not a file that git ignores
    described = ["git", "-C", str(place.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        for command in (known, described):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def record_run(
    output_dir: str | Path, device: Any = None, data: dict[str, list[dict[str, Any]]] | None = None, part: str = ""
) -> None:
    """Write ``config.yaml``, ``environment.json`` and ``data.json`` in the run's folder.

    They describe the run whose results are in the folder, so write them only once the run can no longer be refused.

    Args:
        output_dir: the run's folder; made if it is not there.
        device: as chosen, for the record.
        data: section -> records.
        part: of what is no training, "evaluation" or "inference": its records begin with that word, for it may lie in
            a training's folder, and its log is named after it.

    Raises:
        UserError: when the folder cannot be written to.
    """
    if idist.get_rank() != 0:
        return
    folder = require_writable(output_dir)
    facts = environment(device)
    if (config := calling_config()) is not None:
        facts["config_hash"] = config_hash(config)
        text = yaml.safe_dump(config, sort_keys=False, width=120)
        write_atomically(folder / record_name(part, "config.yaml"), text.encode())
    if data is not None:
        facts["data_hash"] = records_hash(data)
        write_json(folder / record_name(part, "data.json"), data)
    write_json(folder / record_name(part, "environment.json"), facts)


def origin(scans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a manifest says of where weights come from: how many volumes, their hash, and that of the config."""
    config, data_hash = calling_config(), records_hash({"training": list(scans)})
    return {"volumes": len(scans), "data_hash": data_hash, "config_hash": config and config_hash(config)}


def record_name(part: str, file: str) -> str:
    """The name of a record: config.yaml of a training, evaluation_config.yaml of an evaluation."""
    return f"{part}_{file}" if part else file


def record_end(output_dir: str | Path, part: str = "") -> None:
    """Add to ``environment.json`` when the run ended and how much memory it needed."""
    path = Path(output_dir) / record_name(part, "environment.json")
    if idist.get_rank() != 0 or not path.is_file():
        return
    facts = json.loads(path.read_text()) | {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(path, facts | peak_memory())


def peak_memory() -> dict[str, int]:
    """The most memory, in MB, that this process has held, and on its GPU where it used one."""
    import resource  # late: Windows has none

    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    found = {"peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    return found


class RunLog(logging.FileHandler):
    """A run's log; a line that a full disk does not take is left out, and the first such is told in the terminal."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name for it
        """Say it once: logging would print its own trace for every line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            print(
                f"{self.baseFilename}: cannot be written ({error.strerror}); lines are missing there.", file=sys.stderr
            )


def log_to(path: Path) -> None:
    """Let everything that is logged, down to level DEBUG of this package, go to the file `path` too."""
    root = logging.getLogger()
    if any(isinstance(h, logging.FileHandler) and Path(h.baseFilename) == path.resolve() for h in root.handlers):
        return
    handler = RunLog(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    package = logging.getLogger("desd_components")
    if package.level == logging.NOTSET:
        package.setLevel(logging.DEBUG)
        for other in root.handlers:
            if other is not handler and other.level == logging.NOTSET:
                other.setLevel(logging.INFO)  # the file alone sees DEBUG
