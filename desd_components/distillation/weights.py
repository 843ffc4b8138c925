"""Hand-over of encoders: ``encoder.pt``, and beside it ``encoder.json``, from which the encoder is built again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.encoders import Encoder, architecture_of, refuse_other_features, repeat_channels
from ..base.errors import UserError
from ..base.manifests import AXIS_ORDER, built, manifest_path, read_manifest, refuse_contradictions
from .encoder import build_encoder

logger = logging.getLogger(__name__)


def encoder_from(
    checkpoint: str | Path | None,
    scratch_architecture: Mapping[str, Any] | None = None,
    architecture: Mapping[str, Any] | None = None,
    in_channels: int | None = None,
    encoder: str | Mapping[str, Any] | None = None,
) -> Encoder:
    """The encoder of a checkpoint, built as its manifest says, with its weights; or a fresh one.

    Args:
        checkpoint: a weights file with its manifest; None for random weights.
        scratch_architecture: arguments of `ResNet3DEncoder`, used only without a checkpoint.
        architecture: arguments that the user insists on: they override `scratch_architecture`, and a checkpoint that
            was trained with others is refused.
        in_channels: channels of the volumes. A checkpoint of one channel is inflated to more: its stem is repeated and
            divided by their number, and the log says so.
        encoder: the network, as of `architecture_of`; where it is not "resnet", insisted on in place of
            `scratch_architecture`.

    Raises:
        UserError: when the checkpoint is missing, contradicts what is asked for, or does not fit.
    """
    architecture = {**architecture_of(encoder), **(architecture or {})}
    if checkpoint is None:
        channels = {} if in_channels is None else {"in_channels": in_channels}
        scratch = {} if "network" in architecture else scratch_architecture or {}
        settings = {**scratch, **channels, **architecture}
        logger.info("no checkpoint is given: the encoder starts from random weights (%s).", settings)
        return build_encoder(**settings)
    manifest = read_manifest(checkpoint)
    if "architecture" not in manifest:
        raise UserError(f"{manifest_path(checkpoint)}: no `architecture` in it. Give a pre-training's encoder.pt.")
    refuse_contradictions(checkpoint, manifest["architecture"], architecture)
    found = built(checkpoint, build_encoder, manifest["architecture"])
    if "canary" in manifest:
        refuse_other_features(checkpoint, found, manifest["canary"])
    if in_channels in (None, found.in_channels):
        return found
    wider = build_encoder(**{**manifest["architecture"], "in_channels": in_channels})
    repeat_channels(found, wider)
    return wider


def load_encoder(path: str | Path, in_channels: int | None = None) -> Encoder:
    """A pre-trained encoder for a training loop of one's own.

    Called with volumes (B, C, X, Y, Z) it gives the deepest map; its `stages` give all.

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
