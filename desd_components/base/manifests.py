"""Files of weights: a flat file of tensors, and beside it a manifest that says what they are.

``model.pt`` holds a flat dict of tensors, loadable with ``weights_only=True``; ``model.json`` beside it carries what it
takes to build the network, the preprocessing, the axis order and where the weights come from. Loading is strict: a
loader that keeps only the keys that fit would train from scratch in silence.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .encoders import architecture_of, canary_features
from .errors import UserError
from .files import json_text, read_json, save_tensors, write_json
from .tensors import contents, differences, flat_tensors, load_tensors

logger = logging.getLogger(__name__)


_Network = TypeVar("_Network", bound=nn.Module)
AXIS_ORDER = "x, y, z"
NON_COMMERCIAL = "non-commercial use only"  # how the licence of such weights begins
_ANOTHER = "No name agrees, so that it is another network: give the encoder.pt or model.pt of a run"


def manifest_path(path: str | Path) -> Path:
    """Where the manifest of the weights file `path` lies: beside it, same stem, ``.json``."""
    return Path(path).with_suffix(".json")


def save_weights(module: nn.Module, path: str | Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the tensors of `module` to `path`, flat, and `manifest` beside it, an encoder's with canary features.

    Returns:
        What was written, for `write_weights`: "tensors", on the CPU, and "manifest", plain.
    """
    canary = {"canary": canary_features(module)} if hasattr(module, "stages") else {}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    told = json.loads(json_text({"axis_order": AXIS_ORDER, **manifest, **canary}))
    write_weights(path, tensors, told)
    return {"tensors": tensors, "manifest": told}


def write_weights(path: str | Path, tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> None:
    """Write a flat file of weights, and its manifest beside it."""
    save_tensors(Path(path), tensors)
    write_json(manifest_path(path), manifest)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest beside the weights file `path`.

    Raises:
        UserError: when the weights or their manifest are missing, or the manifest is none, or of another axis order.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such weights file, seen from {Path.cwd()}. Give the encoder.pt or model.pt of a run; a "
            "bundle's own weights are found with its folder as --bundle_root."
        )
    beside = manifest_path(path)
    if not beside.is_file():
        raise UserError(
            f"{beside}: the manifest of {path} is missing; the file holds {contents(load_tensors(path))}. Give an "
            "encoder.pt or model.pt of a run with its manifest beside it; those of other networks cannot be taken."
        )
    manifest = read_json(beside)
    if not isinstance(manifest, dict):
        raise UserError(f"{beside}: not a manifest but {contents(manifest)}. Copy it from the run that wrote {path}.")
    if manifest.get("axis_order", AXIS_ORDER) != AXIS_ORDER:
        raise UserError(
            f"{beside}: the kernels' axes are {manifest['axis_order']!r}, not {AXIS_ORDER!r}: turn them round, or give "
            "the encoder.pt or model.pt of a run."
        )
    return manifest


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load the flat file `path` into `module`; every tensor must fit, by name and shape.

    Raises:
        UserError: when tensors are absent, left over or of another shape; the message names the first of each.
    """
    tensors = flat_tensors(path)
    refuse_misfit(module, path, tensors)
    module.load_state_dict(tensors)
    logger.info("%s: all %d tensors loaded.", path, len(tensors))


def refuse_misfit(module: nn.Module, path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Compare the tensors of the file `path` with those of `module`, which may be on the device "meta".

    Raises:
        UserError: when tensors are absent, left over or of another shape; the message names the first of each.
    """
    wanted = module.state_dict()
    differing = differences(wanted, tensors)
    if differing:
        known = "Use the settings of the run that wrote it" if wanted.keys() & tensors.keys() else _ANOTHER
        raise UserError(
            f"{path} does not fit the {type(module).__name__}: {'; '.join(differing)}. {known}, or set the checkpoint "
            "to null to start from scratch."
        )


def refuse_contradictions(path: str | Path, found: Mapping[str, Any], asked: Mapping[str, Any] | None) -> None:
    """Compare the settings asked for with those in a manifest; None asks for nothing.

    Raises:
        UserError: listing each setting that differs.
    """
    differing = [
        f"{key} is {found.get(key)!r} there, {value!r} asked for"
        for key, value in (asked or {}).items()
        if value is not None and found.get(key) != value
    ]
    if differing:
        raise UserError(f"{path}: {'; '.join(differing)}. Leave these settings out to take the checkpoint's own.")


def built(path: str | Path, build: Callable[..., _Network], arguments: Mapping[str, Any]) -> _Network:
    """The network that `build` makes of `arguments`, with the weights of `path`.

    It is built without memory first, so that a manifest which asks for more than the file holds is refused at no cost.

    Raises:
        UserError: when the arguments describe no network, or another than the weights.
    """
    try:
        with torch.device("meta"):
            blueprint = build(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{manifest_path(path)}: `architecture` describes no encoder ({reason}).") from error
    refuse_misfit(blueprint, path, flat_tensors(path))
    network = build(**arguments)
    load_weights(network, path)
    return network


def known_encoder(checkpoint: str | Path | None, encoder: str | Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The manifest of pre-trained weights; without them, the architecture that a network of another package has."""
    if checkpoint is not None:
        return read_manifest(checkpoint)
    asked = architecture_of(encoder)
    return {"architecture": asked} if "network" in asked else {}


def licence_of(checkpoint: str | Path | None) -> dict[str, Any]:
    """The entry "licence" of the manifest of weights that others start from, for theirs; nothing where it has none."""
    manifest = {} if checkpoint is None else read_manifest(checkpoint)
    return {name: manifest[name] for name in ("licence",) if name in manifest}


def agree_with_encoder(checkpoint: str | Path | None, settings: Mapping[str, Any], allow: bool | None = None) -> None:
    """Refuse volumes that are preprocessed unlike those that an encoder was pre-trained on.

    Args:
        checkpoint: weights with a manifest, or None.
        settings: as of `preprocessing_settings`.
        allow: only log the differences; None where a run has no such setting.

    Raises:
        UserError: listing the differences.
    """
    if checkpoint is None:
        return
    trained = read_manifest(checkpoint).get("preprocessing") or {}
    differing = [
        f"{key} was {trained[key]!r}, now {settings[key]!r}"
        for key in settings
        if key in trained and trained[key] != settings[key]
    ]
    if not differing:
        return
    if not allow:
        remedy = "Use its settings." if allow is None else "Use its settings, or --allow_other_preprocessing true."
        raise UserError(f"{checkpoint} was pre-trained on other volumes: {'; '.join(differing)}. {remedy}")
    logger.warning("%s was pre-trained on other volumes, which is accepted: %s", checkpoint, "; ".join(differing))
