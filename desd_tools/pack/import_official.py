"""The authors' published checkpoint as an encoder of ours.

Its format is known from its description alone (METHOD: a dict of student, teacher, optimizer, epoch, args, desd_loss);
their code is licensed for non-commercial use only, and nothing of it is here. The teacher's encoder is taken, as the
paper does. Theirs has its axes in the order z, y, x; ours x, y, z: every kernel is turned once. Every key is accounted
for: used, left out by kind, or refused.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from desd_components.base.errors import UserError
from desd_components.base.manifests import refuse_misfit, save_weights
from desd_components.base.tensors import contents, load_tensors_and_namespace, refuse_odd_tensors
from desd_components.distillation.encoder import ResNet3DEncoder
from desd_components.scans.preprocess import preprocessing_settings

logger = logging.getLogger(__name__)


LICENCE = "non-commercial use only: these weights are the authors', under the licence of their repository"
#: what the top level may hold beside the two networks
LEFT_OUT = ("optimizer", "epoch", "args", "desd_loss")
HEAD = re.compile(r"head(_[1-3])?\.(mlp\.\d+\.\w+|last_layer\.(weight(_g|_v)?|parametrizations\.weight\.original[01]))")
BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(conv|norm)([123])\.(weight|bias)")
SHORTCUT = re.compile(r"layer([1-4])\.0\.downsample\.([01])\.(weight|bias)")


def our_name(key: str) -> str | None:
    """The name in `ResNet3DEncoder` of a tensor of their encoder; None when their encoder has no such tensor."""
    if key == "conv1.weight":
        return "stem.0.weight"
    if key in ("norm1.weight", "norm1.bias"):
        return f"stem.1.{key.rpartition('.')[2]}"
    if found := BLOCK.fullmatch(key):
        stage, block, layer, number, kind = found.groups()
        place = 3 * (int(number) - 1) + (layer == "norm")  # convolution, norm, activation
        return f"stage_modules.{int(stage) - 1}.{block}.residual.{place}.{kind}"
    if found := SHORTCUT.fullmatch(key):
        stage, layer, kind = found.groups()
        return f"stage_modules.{int(stage) - 1}.0.shortcut.{layer}.{kind}"
    return None


def in_our_axes(tensor: torch.Tensor) -> torch.Tensor:
    """A kernel (O, I, z, y, x) as (O, I, x, y, z); anything else as it is."""
    return tensor.permute(0, 1, 4, 3, 2).contiguous() if tensor.ndim == 5 else tensor


def sorted_out(path: str | Path, content: Any) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """The teacher's encoder under our names and axes, and how many tensors or entries of each kind are left out.

    Raises:
        UserError: when the file is of another format, or holds a key that this one does not know.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("teacher"), Mapping):
        raise UserError(
            f"{path}: not the authors' checkpoint, a dict of student, teacher and more, but {contents(content)}. Give "
            "the file as published; weights of other networks cannot be taken."
        )
    encoder: dict[str, torch.Tensor] = {}
    left: Counter[str] = Counter()
    for entry, value in content.items():
        if entry in ("teacher", "student") and isinstance(value, Mapping):
            for key, tensor in value.items():
                _sort(path, entry, str(key), tensor, encoder, left)
        elif entry in LEFT_OUT:
            left[entry] += 1
        else:
            raise UserError(
                f"{path}: the entry {entry!r} belongs to no checkpoint of that format. Give the file as published."
            )
    return encoder, left


def _sort(path: str | Path, half: str, key: str, tensor: Any, encoder: dict, left: Counter[str]) -> None:
    name = key.removeprefix("module.")
    ours = our_name(name.removeprefix("backbone.")) if name.startswith("backbone.") else None
    if not isinstance(tensor, torch.Tensor) or (ours is None and not HEAD.fullmatch(name)):
        raise UserError(
            f"{path}: {half} has {key!r}, which no checkpoint of that format has. Give the file as published."
        )
    if ours is None:
        left[f"{half}'s projection heads"] += 1
    elif half == "student":
        left["student's encoder"] += 1
    else:
        encoder[ours] = in_our_axes(tensor)


def encoder_for(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> ResNet3DEncoder:
    """The published ResNet-50, of the width that the stem says, with these tensors.

    Raises:
        UserError: when one is absent or of another shape.
    """
    stem = tensors.get("stem.0.weight")
    if stem is None or stem.ndim != 5:
        raise UserError(f"{path}: the teacher has no 3D backbone.conv1.weight. Give the file as published.")
    refuse_odd_tensors(path, tensors.items())
    settings: dict[str, Any] = {"width": stem.shape[0], "in_channels": stem.shape[1]}
    with torch.device("meta"):
        blueprint = ResNet3DEncoder(**settings)
    refuse_misfit(blueprint, path, tensors)
    encoder = ResNet3DEncoder(**settings)
    encoder.load_state_dict(tensors)
    return encoder


def import_official(file: str, output: str) -> None:
    """Turn FILE, the checkpoint that the authors of DeSD published, into an encoder.pt with its manifest.

    Args:
        file: as downloaded; it is read as tensors and plain values, and nothing in it is executed.
        output: such as encoder.pt.

    Raises:
        UserError: when the file is of another format, or not all of it is known, or the output is no .pt or the file.
    """
    if Path(output).suffix != ".pt" or Path(output).resolve() == Path(file).resolve():
        raise UserError(f"--output {output}: give another file, ending in .pt; `desd export` makes other formats.")
    content = load_tensors_and_namespace(file)
    tensors, left = sorted_out(file, content)
    encoder = encoder_for(file, tensors)
    manifest = {
        "kind": "encoder",
        "half": "teacher",
        "architecture": encoder.architecture,
        "preprocessing": preprocessing_settings([1.0, 1.0, 1.0], "hu", [-1024.0, 1024.0]),
        "view_size": [96, 96, 16],
        "source": "checkpoint published by the authors of DeSD (Ye et al., MICCAI 2022), kernels turned to x, y, z",
        "licence": LICENCE,
        "epoch": content["epoch"] if isinstance(content.get("epoch"), int) else None,
    }
    save_weights(encoder, output, manifest)
    logger.info("%s: %d tensors of the teacher's encoder used.", output, len(tensors))
    for kind, count in sorted(left.items()):
        logger.info("left out: %s (%d)", kind, count)
    logger.warning("%s: licence: %s.", output, LICENCE)
