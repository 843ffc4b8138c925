"""Hand-over of encoders: ``encoder.pt``, and beside it ``encoder.json``, from which the encoder is built again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.encoders import refuse_other_features
from ..base.errors import UserError
from ..base.manifests import AXIS_ORDER, built, manifest_path, read_manifest, refuse_contradictions
from .encoder import ResNet3DEncoder

logger = logging.getLogger(__name__)


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
        logger.info("no checkpoint is given: the encoder starts from random weights (%s).", settings)
        return ResNet3DEncoder(**settings)
    manifest = read_manifest(checkpoint)
    if "architecture" not in manifest:
        raise UserError(f"{manifest_path(checkpoint)}: no `architecture` in it. Give a pre-training's encoder.pt.")
    refuse_contradictions(checkpoint, manifest["architecture"], architecture)
    encoder = built(checkpoint, ResNet3DEncoder, manifest["architecture"])
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
