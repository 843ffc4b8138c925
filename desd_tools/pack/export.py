"""Weights for other runtimes: safetensors, TorchScript, ONNX and nnU-Net, each with the manifest beside it.

What is exported is the network that the manifest describes: a pre-trained encoder (volume -> deepest map), or a
segmentation network (volume -> logits). Batch size and volume size stay free in all. A network that a format cannot
hold is refused, and leaves no file.
"""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from desd_components.base.errors import UserError, one_line, optional_module
from desd_components.base.files import write_json
from desd_components.base.manifests import manifest_path, read_manifest
from desd_components.base.tensors import NO_SAFETENSORS
from desd_components.scans.nnunet.plans import NnunetPlans

from .nnunet import refuse_other_plans, write_nnunet
from .publish import network_of

logger = logging.getLogger(__name__)


#: voxels of the volume that is traced for ONNX, unequal on purpose: an axis that is fixed by mistake would show
TRACED = (2, 32, 48, 40)


def write_safetensors(network: nn.Module, path: Path) -> None:
    """The tensors, flat, under the names that they have in the ``.pt``; those that share memory are written apart."""
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    # its own writer of files makes them private, whatever the umask
    path.write_bytes(optional_module("safetensors.torch", NO_SAFETENSORS).save(tensors))


def write_torchscript(network: nn.Module, path: Path) -> None:
    """The network as a program, scripted, for a traced one would keep the size that it saw.

    Raises:
        UserError: when TorchScript cannot hold the network.
    """
    with _held_as("TorchScript"):  # torch.jit is old, and what MONAI's consumers load
        torch.jit.script(network).save(path)


@contextlib.contextmanager
def _held_as(kind: str) -> Iterator[None]:
    """Nothing of torch's warnings, and one line for a network that a format has no words for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except RuntimeError as error:
            reason = f"the network cannot be written as {kind}: {one_line(error)}"
            raise UserError(f"{reason}. Choose --format safetensors.") from error


def write_onnx(network: nn.Module, path: Path) -> None:
    """The network as an ONNX graph: ``image`` -> ``pred``, axes batch, x, y, z free.

    Raises:
        UserError: when the package onnx is not installed, or ONNX cannot hold the network.
    """
    # torch imports it only at the end
    optional_module("onnx", "onnx is not installed: pip install onnx, or choose another --format.")
    batch, *size = TRACED
    volume = torch.randn(batch, next(m for m in network.modules() if isinstance(m, nn.Conv3d)).in_channels, *size)
    axes = {0: "batch", 2: "x", 3: "y", 4: "z"}
    with _held_as("ONNX"):
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
FORMATS: dict[str, tuple[Callable[..., Any], str]] = {
    "safetensors": (write_safetensors, ".safetensors"),
    "torchscript": (write_torchscript, ".ts"),
    "onnx": (write_onnx, ".onnx"),
    "nnunet": (write_nnunet, ".pth"),
}


def export(
    weights: str,
    format: str,
    output: str,
    plans: str | None = None,
    configuration: str = "3d_fullres",
    allow_other_plans: bool = False,
) -> None:
    """Write WEIGHTS, an encoder.pt or model.pt, as safetensors, TorchScript or ONNX, or an encoder.pt for nnU-Net.

    Args:
        weights: the file, with its manifest beside it.
        format: safetensors, torchscript, onnx or nnunet.
        output: the file to write, ending in .safetensors, .ts, .onnx or .pth; its manifest is written beside it.
        plans: of nnunet alone: the nnUNetPlans.json of the network that is to be trained.
        configuration: of the plans.
        allow_other_plans: also where volumes were preprocessed otherwise than these plans say.

    Raises:
        UserError: when the format or the ending is another, the weights do not load, a package is missing, or the
            format cannot hold the network.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: choose one of {', '.join(FORMATS)}.")
    if (plans is None) != (format != "nnunet"):
        raise UserError(f"--format {format}: goes {'with' if plans is None else 'without'} --plans nnUNetPlans.json.")
    write, ending = FORMATS[format]
    path = Path(output)
    if path.suffix != ending:
        raise UserError(f"--output {output}: a file of the format {format} ends in {ending}.")
    network, manifest = network_of(weights), read_manifest(weights)
    if plans is not None:
        planned = NnunetPlans(plans, configuration)
        refuse_other_plans(weights, manifest, planned, allow_other_plans)
        write = partial(write_nnunet, plans=planned)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a writer that fails leaves nothing
        write(network, Path(folder) / path.name)
        os.replace(Path(folder) / path.name, path)
    write_json(manifest_path(path), manifest)
    logger.info("%s: %.1f MB, from %s", path, path.stat().st_size / 1e6, weights)
