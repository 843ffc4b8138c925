"""The manifest of a segmentation model: enough to build the network, and the way to its input and from its output."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.classes import Classes, Regions, class_members, classes_of
from ..base.errors import UserError
from ..base.files import read_json
from ..base.manifests import licence_of, manifest_path, read_manifest, refuse_contradictions
from ..distillation.encoder import build_encoder
from ..scans.labelled import classes_of_data
from ..scans.preprocess import target_spacing
from .network import SegmentationNetwork

logger = logging.getLogger(__name__)


#: what a segmentation network's manifest holds, and of which type
_MANIFEST_ENTRIES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("architecture", "decoder", "preprocessing"), (dict,)),
    **dict.fromkeys(("class_names", "window", "single"), (list,)),
    "activation": (str,),
    "regions": (bool, list),
}


def segmentation_classes(dataset_dir: str | Path, class_names: Any, metadata: str | Path) -> Classes:
    """The classes, their regions, and the label value to ignore: as asked for, else as the data say.

    Without data (a network built only to be looked at, exported or loaded into) the classes of the bundle's own
    ``metadata.json`` are taken, and the log says so.

    Raises:
        UserError: when the data are there but name no classes.
    """
    path = Path(dataset_dir).expanduser()
    if path.exists():
        return classes_of_data(path, class_names)
    if class_names is not None:
        return classes_of(class_names)
    channels = read_json(Path(metadata))["network_data_format"]["outputs"]["pred"]["channel_def"]
    logger.warning("%s does not exist: the classes are those of %s.", path, metadata)
    return classes_of(channels, str(metadata))


def segmentation_manifest(
    network: SegmentationNetwork,
    class_names: Sequence[str],
    activation: str,
    regions: Regions,
    preprocessing: Mapping[str, Any],
    window: Sequence[int],
    encoder_checkpoint: str | None = None,
    single: Sequence[int] = (),
) -> dict[str, Any]:
    """What ``model.json`` says beside ``model.pt``: enough to build the network and the way to its input again.

    Raises:
        UserError: when `single` has what is no class's label value.
    """
    known = {value for members in class_members(len(class_names), regions)[1:] for value in members}
    if odd := [value for value in single if value not in known]:
        raise UserError(f"single={list(single)!r}: no class has the label value {odd[0]!r}; there are {sorted(known)}.")
    return {
        "kind": "segmentation",
        "architecture": network.encoder.architecture,
        "decoder": network.decoder_architecture,
        "class_names": list(class_names),
        "activation": activation,
        "regions": regions if isinstance(regions, bool) else [list(members) for members in regions or ()],
        "single": list(single),
        "preprocessing": dict(preprocessing),
        "window": list(window),
        "encoder": "random" if encoder_checkpoint is None else Path(encoder_checkpoint).name,
        **licence_of(encoder_checkpoint),
    }


def model_manifest(checkpoint: str | Path, **asked: Any) -> dict[str, Any]:
    """The manifest beside a fine-tuned ``model.pt``; settings asked for must agree with it.

    Args:
        checkpoint: the weights file.
        asked: settings such as `spacing`, `intensity`, `hu_window`, `class_names`, `window`; None asks for nothing.

    Raises:
        UserError: when the file or its manifest is missing, is not of a segmentation network, or a setting differs.
    """
    manifest = read_manifest(checkpoint)
    if manifest.get("kind") != "segmentation":
        raise UserError(
            f"{manifest_path(checkpoint)}: kind is {manifest.get('kind')!r}, not 'segmentation'. Give the model.pt of "
            "a fine-tuning run; an encoder.pt is fine-tuned first (--encoder_checkpoint)."
        )
    manifest.setdefault("single", [])  # not known to the first version
    _refuse_odd_manifest(manifest_path(checkpoint), manifest)
    found = {**manifest["architecture"], **manifest["preprocessing"], **manifest}
    refuse_contradictions(checkpoint, found, _as_written(asked))
    return manifest


def _refuse_odd_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse the manifest of a segmentation network in which something is absent or of another type, or does not fit.

    Raises:
        UserError: naming the first such entry.
    """
    for name, kinds in _MANIFEST_ENTRIES.items():
        if not isinstance(manifest.get(name), kinds):
            found = f"a {type(manifest[name]).__name__}" if name in manifest else "absent"
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"{path}: `{name}` is {found}, not a {wanted}. Copy it again from the run.")
    named, channels = len(manifest["class_names"]), manifest["decoder"].get("out_channels")
    if named != channels:
        raise UserError(f"{path}: names {named} classes, but the network has {channels}. Copy it again from the run.")


def _as_written(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as people give them, in the form that manifests hold."""
    settings = dict(asked)
    if settings.get("class_names") is not None:
        settings["class_names"] = classes_of(settings["class_names"]).names
    if settings.get("spacing") is not None:
        settings["spacing"] = target_spacing(settings["spacing"], [])
    return settings


def network_from_manifest(manifest: Mapping[str, Any]) -> SegmentationNetwork:
    """The network that a manifest describes, with random weights."""
    return SegmentationNetwork(build_encoder(**manifest["architecture"]), **manifest["decoder"])
