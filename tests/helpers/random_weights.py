"""Weights of random numbers as runs leave them, with their manifests."""

from pathlib import Path
from typing import Any

import torch

from desd_components import ResNet3DEncoder, SegmentationNetwork, preprocessing_settings, save_weights
from desd_components.segmentation.model import segmentation_manifest

ARCHITECTURE = {"depth": 10, "width": 8, "stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
PREPROCESSING = preprocessing_settings(None, "zscore", [-1024, 1024])


def write_encoder(path: Path, **architecture: Any) -> ResNet3DEncoder:
    """As a pre-training leaves it."""
    torch.manual_seed(1)
    encoder = ResNet3DEncoder(**{**ARCHITECTURE, **architecture})
    about = {"kind": "encoder", "architecture": encoder.architecture, "preprocessing": PREPROCESSING}
    save_weights(encoder, path, {**about, "view_size": [16, 16, 16]})
    return encoder


def write_model(path: Path, encoder: ResNet3DEncoder) -> None:
    """As a fine-tuning of two classes leaves it."""
    model = SegmentationNetwork(encoder, 3, decoder_width=8)
    classes = ["background", "one", "two"]
    save_weights(model, path, segmentation_manifest(model, classes, "sigmoid", False, PREPROCESSING, [16] * 3))
