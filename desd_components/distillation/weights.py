"""Hand-over of weights: a flat file of tensors, and beside it a manifest that says what they are.

``encoder.pt`` holds a flat dict of tensors, loadable with ``weights_only=True``; ``encoder.json`` beside it carries the
architecture, the preprocessing, the axis order and where the weights come from. Loading is strict: a loader that keeps
only the keys that fit would train from scratch in silence.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..base.errors import UserError, none_if_null
from ..base.files import save_tensors, write_json
from ..base.tensors import contents, differences, flat_tensors, load_tensors
from .encoder import ResNet3DEncoder, pooled_stages

logger = logging.getLogger(__name__)


AXIS_ORDER = "x, y, z"
_ANOTHER = "No name agrees, so that it is another network: give the encoder.pt or model.pt of a run"


def manifest_path(path: str | Path) -> Path:
    """Where the manifest of the weights file `path` lies: beside it, same stem, ``.json``."""
    return Path(path).with_suffix(".json")


def canary_features(encoder: ResNet3DEncoder) -> dict[str, list[float]]:
    """What `encoder` makes of a fixed volume: the first eight pooled features of each stage.

    The volume differs along each axis, so that a change of axes, of architecture or of weights shows.
    """
    size = [8, 8, 8]
    while min(encoder.stage_shapes(size)[-1]) < 2:
        size = [
            side if extent > 1 else 2 * side for side, extent in zip(size, encoder.stage_shapes(size)[-1], strict=True)
        ]
    x, y, z = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    volume = torch.sin(0.37 * x) + torch.cos(0.23 * y) * torch.sin(0.11 * z)
    device, training = next(encoder.parameters()).device, encoder.training
    with torch.no_grad():
        maps = encoder.eval().stages(volume.to(device).expand(1, encoder.in_channels, *size))
    encoder.train(training)
    pooled = pooled_stages(maps)
    return {f"stage_{stage}": features[0, :8].tolist() for stage, features in enumerate(pooled, start=1)}


def refuse_other_features(path: str | Path, encoder: ResNet3DEncoder, expected: Mapping[str, Sequence[float]]) -> None:
    """Compare the canary features of `encoder` with those in a manifest.

    Raises:
        UserError: when they differ by more than rounding on another machine would.
    """
    found = canary_features(encoder)
    for stage, values in expected.items():
        wanted = torch.tensor(values)
        gap = (torch.tensor(found[stage]) - wanted).abs().max()
        if not gap <= 1e-2 * wanted.abs().max().clamp_min(1e-3):
            raise UserError(
                f"{path}: its features at {stage} differ from those in its manifest (by {float(gap):.3g}). The weights "
                "or the manifest were changed, or come from another version. Copy both again."
            )


def save_weights(module: nn.Module, path: str | Path, manifest: Mapping[str, Any]) -> None:
    """Write the tensors of `module` to `path`, flat, and `manifest` beside it, an encoder's with canary features."""
    path = Path(path)
    if isinstance(module, ResNet3DEncoder):
        manifest = {**manifest, "canary": canary_features(module)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_tensors(path, tensors)
    write_json(manifest_path(path), {"axis_order": AXIS_ORDER, **manifest})


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest beside the weights file `path`.

    Raises:
        UserError: when the weights or their manifest are missing, or the manifest is none, or of another axis order.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file.")
    beside = manifest_path(path)
    if not beside.is_file():
        raise UserError(
            f"{beside}: the manifest of {path} is missing; the file holds {contents(load_tensors(path))}. Give an "
            "encoder.pt or model.pt of a run with its manifest beside it; those of other networks cannot be taken."
        )
    try:
        manifest = json.loads(beside.read_text())
    except ValueError as error:
        raise UserError(f"{beside}: not a JSON file ({error}). Copy it again from the run that wrote it.") from error
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


def encoder_of(path: str | Path, architecture: Mapping[str, Any]) -> ResNet3DEncoder:
    """The encoder that the manifest of `path` describes, with the weights.

    It is built without memory first, so that a manifest which asks for more than the file holds is refused at no cost.

    Raises:
        UserError: when the manifest describes no encoder, or another than the weights.
    """
    try:
        with torch.device("meta"):
            blueprint = ResNet3DEncoder(**architecture)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{manifest_path(path)}: `architecture` describes no encoder ({reason}).") from error
    refuse_misfit(blueprint, path, flat_tensors(path))
    encoder = ResNet3DEncoder(**architecture)
    load_weights(encoder, path)
    return encoder


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


def encoder_from(
    checkpoint: str | Path | None,
    scratch_architecture: Mapping[str, Any] | None = None,
    architecture: Mapping[str, Any] | None = None,
    in_channels: int | None = None,
) -> ResNet3DEncoder:
    """The encoder of a checkpoint, built as its manifest says, with its weights; or a fresh one.

    Args:
        checkpoint: a weights file with its manifest; None for random weights.
        scratch_architecture: arguments of `ResNet3DEncoder`, used only without a checkpoint.
        architecture: arguments that the user insists on: they override `scratch_architecture`, and a checkpoint that
            was trained with others is refused.
        in_channels: channels of the volumes. A checkpoint of one channel is inflated to more: its stem is repeated and
            divided by their number, and the log says so.

    Raises:
        UserError: when the checkpoint is missing, contradicts what is asked for, or does not fit.
    """
    checkpoint = none_if_null(checkpoint)
    if checkpoint is None:
        channels = {} if in_channels is None else {"in_channels": in_channels}
        settings = {**(scratch_architecture or {}), **channels, **(architecture or {})}
        logger.info("encoder_checkpoint is null: the encoder starts from random weights (%s).", settings)
        return ResNet3DEncoder(**settings)
    manifest = read_manifest(checkpoint)
    if "architecture" not in manifest:
        raise UserError(
            f"{manifest_path(checkpoint)}: no `architecture` in it. Give the encoder.pt of a pre-training run."
        )
    refuse_contradictions(checkpoint, manifest["architecture"], architecture)
    encoder = encoder_of(checkpoint, manifest["architecture"])
    if "canary" in manifest:
        refuse_other_features(checkpoint, encoder, manifest["canary"])
    return encoder if in_channels in (None, encoder.in_channels) else inflate_channels(encoder, in_channels)


def load_encoder(path: str | Path, in_channels: int | None = None) -> ResNet3DEncoder:
    """A pre-trained encoder for a training loop of one's own.

    Called with volumes (B, C, X, Y, Z) it gives the deepest map; its `stages` give all four.

    Args:
        path: an ``encoder.pt``, or a ``.safetensors``, with its manifest beside it.
        in_channels: channels of the volumes; a one-channel encoder is inflated to more, and the log says so.

    Raises:
        UserError: when the file or its manifest is missing, is not an encoder's, or the two do not fit.
    """
    manifest = read_manifest(path)
    if manifest.get("kind", "encoder") != "encoder":
        raise UserError(f"{manifest_path(path)}: kind is {manifest['kind']!r}, not 'encoder'. Give an encoder.pt.")
    encoder = encoder_from(path, in_channels=in_channels)
    wanted = manifest.get("preprocessing") or {}
    logger.info("%s: trained on volumes with %s, axes %s.", path, wanted, manifest.get("axis_order", AXIS_ORDER))
    return encoder


def inflate_channels(encoder: ResNet3DEncoder, in_channels: int) -> ResNet3DEncoder:
    """The same encoder for `in_channels` channels: the stem of a one-channel encoder, repeated and divided.

    Raises:
        UserError: when the encoder has more than one channel already.
    """
    if encoder.in_channels != 1:
        raise UserError(
            f"The checkpoint's encoder has {encoder.in_channels} input channels, the volumes have {in_channels}. "
            "Only one channel can be inflated to more."
        )
    inflated = ResNet3DEncoder(**{**encoder.architecture, "in_channels": in_channels})  # type: ignore[arg-type]
    logger.warning("The encoder's stem is inflated from 1 to %d input channels.", in_channels)
    tensors = encoder.state_dict()
    tensors["stem.0.weight"] = tensors["stem.0.weight"].repeat(1, in_channels, 1, 1, 1) / in_channels
    inflated.load_state_dict(tensors)
    return inflated


def encoder_manifest(
    encoder: ResNet3DEncoder,
    preprocessing: Mapping[str, Any],
    view_size: Sequence[int],
    volumes: int,
    data_hash: str,
    config_hash: str | None = None,
) -> dict[str, Any]:
    """What ``encoder.json`` says beside ``encoder.pt``: enough to build the encoder and the way to its input again."""
    from ..base.version import __version__

    return {
        "kind": "encoder",
        "half": "teacher",
        "architecture": encoder.architecture,
        "preprocessing": dict(preprocessing),
        "view_size": list(view_size),
        "volumes": volumes,
        "data_hash": data_hash,
        "config_hash": config_hash,
        "desd_components": __version__,
    }
