"""Run a bundle with one setting changed, and see what differs: figures, weights, files, or a refusal."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from bundle_runs import ROOT, config_files
from monai.bundle import ConfigParser, ConfigWorkflow

from desd_components.base.errors import innermost_user_error
from desd_components.runs.state import read_state

SECTIONS = {"imports", "initialize", "run", "finalize"}


@dataclass
class Change:
    """Another value of a knob, and the settings under which it means something.

    Args:
        value: of the knob.
        context: of other knobs, in both runs.
        earlier: settings of a run that both runs find in their folder; None for none.
        configs: under which it means something; None for those of all others.
    """

    value: Any
    context: dict[str, Any] = field(default_factory=dict)
    earlier: dict[str, Any] | None = None
    configs: str | None = None


@dataclass
class Same(Change):
    """The same, of a knob that concerns speed and hardware only: it must change nothing that is recorded."""

    why: str = ""


def knobs(bundle: str, config: str) -> set[str]:
    """The settings of a config: top-level items that are values, not expressions, references or components."""
    content = ConfigParser.load_config_file(str(ROOT / config_files(bundle, config)[0]))
    spelt = {"device", "warmup_steps", "regions"} & set(content)  # by an expression, and yet to be given
    return {name for name, value in content.items() if name not in SECTIONS and _is_value(value)} | spelt


def _is_value(value: Any) -> bool:
    told = json.dumps(value)
    return "_target_" not in told and not told.startswith(('"$', '"@', '"%'))


def outcome(
    bundle: str, configs: str, folder: Path, settings: Mapping[str, Any], kind: str = "train"
) -> dict[str, Any]:
    """What a run leaves, or the line with which it is refused; any other error is raised."""
    given = {"output_dir": str(folder), **settings}
    try:
        workflow = ConfigWorkflow(
            config_files(bundle, *configs.split()), workflow_type=kind, logging_file=False, **given
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        refusal = innermost_user_error(error)
        if refusal is None:
            raise
        return {"refused": str(refusal).replace(str(folder), "")}
    return left(Path(str(given["output_dir"])))


def left(folder: Path) -> dict[str, Any]:
    """File -> what it says that no clock, place or config decides."""
    files = [path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts]
    return {path.relative_to(folder).as_posix(): _content(path) for path in sorted(files)}


def _content(path: Path) -> Any:
    if path.name == "history.jsonl":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return [{name: value for name, value in record.items() if name != "seconds"} for record in records]
    if path.name.startswith("state"):
        state = read_state(path)
        return digest([state["objects"], state["iteration"]])
    if path.suffix == ".pt":
        return digest(torch.load(path, weights_only=True))
    if path.suffix == ".npz":
        return digest({name: vector.round(3) for name, vector in np.load(path).items()})  # batches round otherwise
    if path.name.endswith(".nii.gz"):
        return digest(np.asarray(nibabel.load(path).dataobj))
    return None  # that it is there; its words follow from the config


def digest(value: Any) -> str:
    """A hash of tensors, arrays and numbers in dictionaries and lists."""
    return hashlib.sha256(b"\0".join(_bytes(value))).hexdigest()


def _bytes(value: Any) -> list[bytes]:
    if isinstance(value, Mapping):
        return [part for key in value for part in (str(key).encode(), *_bytes(value[key]))]
    if isinstance(value, list | tuple):
        return [part for entry in value for part in _bytes(entry)]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return [value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()]
