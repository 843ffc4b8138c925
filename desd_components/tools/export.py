"""Weights for other runtimes: safetensors, TorchScript and ONNX, each with the manifest beside it.

What is exported is the network that the manifest describes: a pre-trained encoder (volume -> deepest map), or a
segmentation network (volume -> logits). Batch size and volume size stay free in all three.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..finetuning import network_from_manifest
from ..tensorfiles import safetensors_module
from ..weights import load_encoder, load_weights, manifest_path, read_manifest, write_json

logger = logging.getLogger(__name__)

#: voxels of the volume that is traced for ONNX, unequal on purpose: an axis that is fixed by mistake would show
TRACED = (2, 32, 48, 40)


def network_of(weights: str | Path) -> nn.Module:
    """The network that the manifest of `weights` describes, with the weights, in evaluation mode.

    Raises:
        UserError: when the weights or their manifest are missing, or do not fit each other.
    """
    manifest = read_manifest(weights)
    if manifest.get("kind") != "segmentation":
        return load_encoder(weights).eval()
    network = network_from_manifest(manifest)
    load_weights(network, weights)
    return network.eval()


def write_safetensors(network: nn.Module, path: Path) -> None:
    """The tensors, flat, under the names that they have in the ``.pt``."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    safetensors_module().save_file(tensors, path)


def write_torchscript(network: nn.Module, path: Path) -> None:
    """The network as a program, scripted, for a traced one would keep the size that it saw."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, and what MONAI's consumers load
        torch.jit.script(network).save(path)


def write_onnx(network: nn.Module, path: Path) -> None:
    """The network as an ONNX graph: ``image`` -> ``pred``, axes batch, x, y, z free.

    Raises:
        UserError: when the package onnx is not installed.
    """
    try:
        import onnx  # noqa: F401  # torch imports it only at the end
    except ImportError as error:
        raise UserError("onnx is not installed: pip install onnx, or choose another --format.") from error
    batch, *size = TRACED
    volume = torch.randn(batch, next(m for m in network.modules() if isinstance(m, nn.Conv3d)).in_channels, *size)
    axes = {0: "batch", 2: "x", 3: "y", 4: "z"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the shapes that it warns of are free axes
        torch.onnx.export(
            network,
            (volume,),
            str(path),
            dynamo=False,  # needs onnx alone; the newer exporter onnxscript as well
            input_names=["image"],
            output_names=["pred"],
            dynamic_axes={"image": axes, "pred": {axis: f"pred_{name}" for axis, name in axes.items()}},
        )


#: --format -> what writes it, and the ending that its readers expect
FORMATS: dict[str, tuple[Callable[[nn.Module, Path], Any], str]] = {
    "safetensors": (write_safetensors, ".safetensors"),
    "torchscript": (write_torchscript, ".ts"),
    "onnx": (write_onnx, ".onnx"),
}


def export(weights: str, format: str, output: str) -> None:
    """Write WEIGHTS, an encoder.pt or model.pt, as safetensors, TorchScript or ONNX.

    Args:
        weights: the file, with its manifest beside it.
        format: safetensors, torchscript or onnx.
        output: the file to write, ending in .safetensors, .ts or .onnx; its manifest is written beside it.

    Raises:
        UserError: when the format or the ending is another, the weights do not load, or a package is missing.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: choose one of {', '.join(FORMATS)}.")
    write, ending = FORMATS[format]
    path = Path(output)
    if path.suffix != ending:
        raise UserError(f"--output {output}: a file of the format {format} ends in {ending}.")
    network, manifest = network_of(weights), read_manifest(weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(network, path)
    write_json(manifest_path(path), manifest)
    logger.info("%s: %.1f MB, from %s", path, path.stat().st_size / 1e6, weights)
