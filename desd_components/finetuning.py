"""Fine-tuning: what is trained how fast, which classes, which grid, and the manifest of the model.

Source: Ye et al., "DeSD", MICCAI 2022, fine-tune the whole network; the other presets (an encoder that waits for the
decoder, a learning rate that falls with depth) are common practice and ours to offer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from torch import nn

from .class_names import with_background
from .data_lists import read_json
from .encoder import ResNet3DEncoder, shape_table
from .errors import UserError
from .labelled import LabelledData, find_labelled
from .preprocessing import target_spacing
from .records import Record
from .segmentation import SegmentationNetwork
from .weights import manifest_path, read_manifest, refuse_contradictions

logger = logging.getLogger(__name__)

#: what a segmentation network's manifest holds, and of which type
_MANIFEST_ENTRIES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("architecture", "decoder", "preprocessing"), (dict,)),
    **dict.fromkeys(("class_names", "window"), (list,)),
    "activation": (str,),
    "regions": (bool, list),
}

PRESETS = ("whole", "encoder_warmup", "layerwise_decay")
SPLIT_FILE = "split.json"


def parameter_groups(
    network: SegmentationNetwork,
    preset: str = "whole",
    frozen_steps: int = 0,
    decay: float = 0.75,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser; `LearningRateHandler` reads their "lr_scale" and "frozen_steps".

    Args:
        network: the network to fine-tune.
        preset: "whole": one learning rate for all; "encoder_warmup": the encoder rests for the first `frozen_steps`
            optimiser steps, while the random decoder settles; "layerwise_decay": the decoder learns at the full rate,
            stage 4 at `decay` times that, stage 3 at `decay` squared, and so on down to the stem.
        frozen_steps: used by "encoder_warmup".
        decay: used by "layerwise_decay", above 0 and at most 1.
        weight_decay: of kernels; biases and the affine parameters of norms get none.

    Raises:
        UserError: when the preset is unknown or `decay` is out of range.
    """
    if preset not in PRESETS:
        raise UserError(f"preset={preset!r}: choose one of {list(PRESETS)}.")
    if not 0 < decay <= 1:
        raise UserError(f"layer_decay={decay}: give a factor above 0 and at most 1.")
    encoder = network.encoder
    parts: list[tuple[str, list[nn.Module]]] = [("decoder", [network.decoder, network.head])]
    parts += [(f"stage_{stage}", [encoder.stage_modules[stage - 1]]) for stage in (4, 3, 2, 1)]
    parts += [("stem", [encoder.stem])]
    groups = []
    for depth, (name, modules) in enumerate(parts):
        settings = {
            "lr_scale": decay**depth if preset == "layerwise_decay" else 1.0,
            "frozen_steps": frozen_steps if preset == "encoder_warmup" and name != "decoder" else 0,
        }
        parameters = [p for module in modules for p in module.parameters()]
        kernels, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        groups.append({"name": name, "params": kernels, "weight_decay": weight_decay, **settings})
        if vectors:
            groups.append({"name": f"{name}_vectors", "params": vectors, "weight_decay": 0.0, **settings})
    return groups


def share_of_steps(fraction: float, total_steps: int, name: str = "fraction") -> int:
    """How many of `total_steps` a share of the run is.

    Raises:
        UserError: when it is no share below 1; `name` is the setting to mend.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"{name}={fraction}: give a share of the run, from 0 to below 1.")
    return round(fraction * total_steps)


def segmentation_classes(dataset_dir: str | Path, class_names: Any, metadata: str | Path) -> list[str]:
    """Names of the classes, the background first: as asked for, else as the data say.

    Without data (a network built only to be looked at, exported or loaded into) the classes of the bundle's own
    ``metadata.json`` are taken, and the log says so.

    Raises:
        UserError: when the data are there but name no classes.
    """
    if class_names is not None:
        return with_background(class_names)
    path = Path(dataset_dir).expanduser()
    if not path.exists():
        channels = read_json(Path(metadata))["network_data_format"]["outputs"]["pred"]["channel_def"]
        logger.warning("%s does not exist: the classes are those of %s.", path, metadata)
        return with_background(channels, str(metadata))
    source = path if path.is_file() else path / "dataset.json"
    labels = read_json(source).get("labels") if source.is_file() else None
    # where nothing names them, the search for labelled scans refuses in its own words
    return with_background(labels, f"{source}, labels") if labels else find_labelled(path).class_names


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


def segmentation_manifest(
    network: SegmentationNetwork,
    class_names: Sequence[str],
    activation: str,
    regions: bool | Sequence[Sequence[int]],
    preprocessing: Mapping[str, Any],
    window: Sequence[int],
    encoder_checkpoint: str | None = None,
) -> dict[str, Any]:
    """What ``model.json`` says beside ``model.pt``: enough to build the network and the way to its input again."""
    return {
        "kind": "segmentation",
        "architecture": network.encoder.architecture,
        "decoder": network.decoder_architecture,
        "class_names": list(class_names),
        "activation": activation,
        "regions": regions if isinstance(regions, bool) else [list(members) for members in regions],
        "preprocessing": dict(preprocessing),
        "window": list(window),
        "encoder": "random" if encoder_checkpoint is None else Path(encoder_checkpoint).name,
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
        settings["class_names"] = with_background(settings["class_names"])
    if settings.get("spacing") is not None:
        settings["spacing"] = target_spacing(settings["spacing"], [])
    return settings


def network_from_manifest(manifest: Mapping[str, Any]) -> SegmentationNetwork:
    """The network that a manifest describes, with random weights."""
    return SegmentationNetwork(ResNet3DEncoder(**manifest["architecture"]), **manifest["decoder"])


def announce_training(
    network: SegmentationNetwork, window: Sequence[int], class_names: Sequence[str], total_steps: int
) -> None:
    """Log what is about to be trained: classes, maps, parameters, steps."""
    million = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    logger.info("classes: %s", ", ".join(f"{value} {name}" for value, name in enumerate(class_names)))
    logger.info("encoder:\n%s", shape_table(network.encoder, window))
    logger.info("%.2f M parameters, %d optimiser steps", million, total_steps)


def write_split(data: LabelledData, output_dir: str | Path) -> None:
    """Write who trains, validates and tests to ``split.json`` in the run's folder, in the first process."""
    if idist.get_rank() == 0:
        data.write_split(Path(output_dir) / SPLIT_FILE)


def split_of(checkpoint: str | Path) -> str | None:
    """The split that the run of `checkpoint` wrote beside it, so that an evaluation never draws another one."""
    path = Path(checkpoint).parent / SPLIT_FILE
    return str(path) if path.is_file() else None


def section_of(data: LabelledData, section: str) -> list[Record]:
    """The records of one section, or of "all".

    Raises:
        UserError: when the section does not exist or is empty.
    """
    everything = [record for part in data.sections.values() for record in part]
    records = everything if section == "all" else data.sections.get(section, [])
    if not records:
        there = ", ".join(f"{name} ({len(part)})" for name, part in data.sections.items())
        raise UserError(
            f"section={section!r}: no labelled scan there; there are {there}. Name the cases with --data_split FILE."
        )
    return records
