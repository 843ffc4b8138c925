"""Weights for other runtimes: safetensors, TorchScript and ONNX, each with the manifest beside it.

What is exported is the network that the manifest describes: a pre-trained encoder (volume -> deepest map), or a
segmentation network (volume -> logits). Batch size and volume size stay free in all three. A network that a format
cannot hold is refused, and leaves no file.
"""

import contextlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from desd_components.base.errors import UserError, optional_package
from desd_components.base.files import write_json
from desd_components.base.manifests import manifest_path, read_manifest

from .publish import network_of

logger = logging.getLogger(__name__)


#: voxels of the volume that is traced for ONNX, unequal on purpose: an axis that is fixed by mistake would show
TRACED = (2, 32, 48, 40)


def write_safetensors(network: nn.Module, path: Path) -> None:
    """The tensors, flat, under the names that they have in the ``.pt``."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    # its own writer of files makes them private, whatever the umask
    path.write_bytes(optional_package("safetensors.torch", "use a .pt file").save(tensors))


def write_torchscript(network: nn.Module, path: Path) -> None:
    """The network as a program, scripted, for a traced one would keep the size that it saw.

    Raises:
        UserError: when TorchScript has no words for the network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, and what MONAI's consumers load
        try:
            torch.jit.script(network).save(path)
        except RuntimeError as error:
            raise _unheld("TorchScript", _first_line(error), "safetensors") from error


def write_onnx(network: nn.Module, path: Path) -> None:
    """The network as an ONNX graph: ``image`` -> ``pred``, axes batch, x, y, z free.

    Raises:
        UserError: when the package onnx is not installed, or ONNX cannot hold the network: an operator that it lacks,
            or a decision by what is in a volume, which a graph would take once and for all.
    """
    optional_package("onnx", "choose another --format")  # torch imports it only at the end
    batch, *size = TRACED
    volume = torch.randn(batch, next(m for m in network.modules() if isinstance(m, nn.Conv3d)).in_channels, *size)
    axes = {0: "batch", 2: "x", 3: "y", 4: "z"}
    with warnings.catch_warnings(record=True) as heard, _silent_stdout():  # to which torch prints the graph that fails
        warnings.simplefilter("always")
        try:
            torch.onnx.export(
                network,
                (volume,),
                str(path),
                dynamo=False,  # needs onnx alone; the newer exporter onnxscript as well
                input_names=["image"],
                output_names=["pred"],
                dynamic_axes={"image": axes, "pred": {axis: f"pred_{name}" for axis, name in axes.items()}},
            )
        except (RuntimeError, ValueError) as error:  # of the exporter, and of the network itself
            raise _unheld("ONNX", _operator(network, volume, error), "torchscript or safetensors") from error
    _refuse_decisions(heard)


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Nothing reaches standard output, not from C++ either."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _unheld(kind: str, reason: str, remedy: str) -> UserError:
    return UserError(f"the network cannot be written as {kind}: {reason}. Choose --format {remedy}.")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:")[:200] if lines else type(error).__name__


def _operator(network: nn.Module, volume: torch.Tensor, error: Exception) -> str:
    """What stopped an export, in words: the operator and the layer that uses it, where torch names one."""
    named = re.search(r"operator '?(?:aten::)?(\w+)", str(error))
    if not isinstance(error, torch.onnx.OnnxExporterError) or named is None:
        return _first_line(error)
    graph = torch.jit.trace(network, volume, check_trace=False).inlined_graph
    users = [node.scopeName() for node in graph.findAllNodes(f"aten::{named[1]}")]
    layer = f" of the layer {users[0].rpartition('.')[2]}" if users and users[0] else ""
    return f"it has no form for the operator {named[1]}{layer}"


def _refuse_decisions(heard: Sequence[warnings.WarningMessage]) -> None:
    """Refuse a network of whose trace torch warns; not for the checks of shapes in torch's own layers.

    Raises:
        UserError: naming the line of the network that decides.
    """
    own = str(Path(torch.__file__).parent)
    for warning in heard:
        if issubclass(warning.category, torch.jit.TracerWarning) and not warning.filename.startswith(own):
            place = f"{Path(warning.filename).name}, line {warning.lineno}"
            reason = f"it decides by the values or the size of a volume ({place}), and a graph does not"
            raise _unheld("ONNX", reason, "torchscript or safetensors")


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
        UserError: when the format or the ending is another, the weights do not load, a package is missing, or the
            format cannot hold the network.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: choose one of {', '.join(FORMATS)}.")
    write, ending = FORMATS[format]
    path = Path(output)
    if path.suffix != ending:
        raise UserError(f"--output {output}: a file of the format {format} ends in {ending}.")
    network, manifest = network_of(weights), read_manifest(weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a writer that fails leaves nothing
        write(network, Path(folder) / path.name)
        os.replace(Path(folder) / path.name, path)
    write_json(manifest_path(path), manifest)
    logger.info("%s: %.1f MB, from %s", path, path.stat().st_size / 1e6, weights)
