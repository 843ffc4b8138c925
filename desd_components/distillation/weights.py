"""Hand-over of encoders: ``encoder.pt``, and beside it ``encoder.json``, from which the encoder is built again.

Canary features, what the encoder makes of a fixed volume, stand in the manifest: a change of axes, of architecture or
of weights shows when they are computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..base.errors import UserError
from ..base.manifests import (
    AXIS_ORDER,
    load_weights,
    manifest_path,
    read_manifest,
    refuse_contradictions,
    refuse_misfit,
    write_weights,
)
from ..base.tensors import flat_tensors
from ..base.version import __version__
from .encoder import ResNet3DEncoder, pooled_stages

logger = logging.getLogger(__name__)


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
    canary = {"canary": canary_features(module)} if isinstance(module, ResNet3DEncoder) else {}
    write_weights(module, path, {**manifest, **canary})


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
