"""Public weights as encoders of ours: MedicalNet's, anatomix's, OpenMind's, and those of DeSD's authors.

Of each format, what is known is where the encoder's tensors stand, and how they are called. Every tensor of a network
is used, left out by its name (and the log says what), or refused. Kernels of volumes in z, y, x are turned to x, y, z.
Formats: github.com/Tencent/MedicalNet (its loader speaks of depth, height, width), github.com/neel-dey/anatomix, and
huggingface.co/MIC-DKFZ. That of DeSD's authors is known from its description alone: their code is for non-commercial
use only, and nothing of it is here.
"""

import logging
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.networks.nets.resnet import resnet_params

from desd_components.base.encoders import Encoder
from desd_components.base.errors import UserError, require_one_of
from desd_components.base.manifests import NON_COMMERCIAL, save_weights
from desd_components.base.tensors import contents, differences, load_tensors, refuse_odd_tensors
from desd_components.distillation.encoder import build_encoder

logger = logging.getLogger(__name__)


class Format(NamedTuple):
    """What is known of weights of one origin.

    Attributes:
        what: the file, for a refusal.
        networks: entries that hold tensors, the encoder's in the first; none where the file itself is the tensors.
        ours: pattern of the names of the encoder's tensors, whose groups follow ``network.`` in ours.
        left: pattern of the names of heads and decoders, which are left out.
        architecture: of the encoder, but for what its tensors say.
        turned: whether volumes lie in z, y, x.
        seen: how volumes were preprocessed; without a spacing, weights are for any.
    """

    what: str
    networks: tuple[str, ...]
    ours: str
    left: str
    architecture: dict[str, Any]
    turned: bool
    source: str
    licence: str
    seen: dict[str, Any]
    views: Mapping[str, Any] | None = None


#: --format -> what is known of it
FORMATS = {
    "medicalnet": Format(
        "MedicalNet's checkpoint, a dict with state_dict",
        ("state_dict",),
        r"((?:conv1|bn1|layer[1-4])\..+)",
        r"conv_seg\..+",
        {"network": "ResNetFeatures", "dilated": True},
        True,
        "MedicalNet (Chen et al., arXiv:1904.00625), of volumes of one shape, z-scored over their voxels above zero",
        "MIT, Copyright Tencent: github.com/Tencent/MedicalNet",
        {"intensity": "zscore"},
    ),
    "anatomix": Format(
        "anatomix's U-Net, flat tensors such as model.0.weight",
        (),
        r"model\.((?:\d|[12]\d|3[0-6])\..+)",
        r"model\.\d+\..+",
        {"network": "Anatomix"},
        False,
        "anatomix (Dey et al., ICLR 2025, arXiv:2411.02372), whose transforms scale each volume to [0, 1]",
        "MIT, Copyright Neel Dey: github.com/neel-dey/anatomix",
        {"intensity": "minmax"},
    ),
    "openmind": Format(
        "a ResEnc-L of OpenMind, a dict with network_weights",
        ("network_weights",),
        r"(?:backbone\.)?encoder\.((?:stem|stages)\..+)",
        r"((backbone\.)?decoder|architecture|projector|\w+_head|mask_token\w*|densify\w*|(aff|deform)_\w+)\b.*",
        {"network": "ResidualEncoder", "n_stages": 6},
        True,
        "OpenMind (Wald et al., arXiv:2412.17041) or the SSL3D challenge on it, of volumes as their plans say",
        "CC-BY-4.0, name the authors: huggingface.co/MIC-DKFZ",
        {"spacing": [1.0, 1.0, 1.0], "intensity": "zscore"},
    ),
    "desd": Format(
        "the authors' checkpoint, a dict of student, teacher and more",
        ("teacher", "student"),
        r"backbone\.((?:conv1|norm1|layer[1-4]\.\d+\.(?:conv[123]|norm[123]|downsample\.[01]))\.(?:weight|bias))",
        r"head(_[1-3])?\.(mlp\.\d+\.\w+|last_layer\.(weight(_g|_v)?|parametrizations\.weight\.original[01]))",
        {"depth": 50},
        True,
        "the teacher published by the authors of DeSD (Ye et al., MICCAI 2022)",
        f"{NON_COMMERCIAL}: these weights are the authors', under the licence of their repository",
        {"spacing": [1.0, 1.0, 1.0], "intensity": "hu", "hu_window": [-1024.0, 1024.0]},
        {"view_size": [96, 96, 16]},
    ),
}


def sorted_out(path: str | Path, content: Any, known: Format) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """The encoder's tensors under our names and axes, and how many tensors or entries of each kind are left out.

    Raises:
        UserError: when the file is of another format, or a network in it has a tensor of another name.
    """
    first, *others = known.networks or ("network",)
    entries = {first: content} if not known.networks and isinstance(content, Mapping) and content else content
    if not isinstance(entries, Mapping) or not isinstance(entries.get(first), Mapping):
        raise UserError(f"{path}: not {known.what}, but {contents(content)}. Give the file as published.")
    networks = [entry for entry in (first, *others) if isinstance(entries.get(entry), Mapping)]
    encoder: dict[str, torch.Tensor] = {}
    left = Counter(str(entry) for entry in entries if entry not in networks)
    for entry in networks:
        for key, tensor in entries[entry].items():
            name = re.sub(r"^(module\.|_orig_mod\.)*", "", str(key))  # of networks that were wrapped
            ours = re.fullmatch(known.ours, name)
            if not isinstance(tensor, torch.Tensor) or not (ours or re.fullmatch(known.left, name)):
                what = f"{known.what}, for {entry} has {key!r}, of {contents(content)}"
                raise UserError(f"{path}: not {what}. Give the file as published.")
            if ours is None or entry != first:
                left[f"{entry}'s {'encoder' if ours else 'heads and decoder'}"] += 1
                continue
            turn = known.turned and tensor.ndim == 5
            encoder[_our_name(ours[1], known)] = tensor.permute(0, 1, 4, 3, 2).contiguous() if turn else tensor
    return encoder, left


def _our_name(name: str, known: Format) -> str:
    if "network" in known.architecture:
        return f"network.{name}"
    *block, layer, kind = name.replace("downsample.", "downsample").split(".")  # of `ResNet3DEncoder`
    if not block:
        return f"stem.{int(layer == 'norm1')}.{kind}"
    place = 3 * (int(layer[-1]) - 1) + layer.startswith("norm")  # convolution, norm, activation
    part = f"shortcut.{layer[-1]}" if layer.startswith("downsample") else f"residual.{place}"
    return f"stage_modules.{int(block[0][-1]) - 1}.{block[1]}.{part}.{kind}"


def encoder_for(path: str | Path, tensors: dict[str, torch.Tensor], known: Format) -> Encoder:
    """The network of that format with these tensors.

    Raises:
        UserError: when one is absent, left over or of another shape, or a package is not installed.
    """
    refuse_odd_tensors(path, tensors.items())
    architecture = dict(known.architecture)
    if architecture.get("network") == "ResNetFeatures":
        blocks = Counter(name.split(".")[1] for name in tensors if re.search(r"layer\d\.\d+\.conv1\.", name))
        kind = "bottleneck" if "network.layer1.0.conv3.weight" in tensors else "basic"
        fitting = (kind, [blocks[f"layer{layer}"] for layer in (1, 2, 3, 4)])
        architecture["model_name"] = next((n for n, p in resnet_params.items() if p[:2] == fitting), "resnet10")
    elif "stem.0.weight" in tensors and tensors["stem.0.weight"].ndim == 5:
        architecture["width"], architecture["in_channels"] = tensors["stem.0.weight"].shape[:2]
    with torch.device("meta"):
        wanted = build_encoder(**architecture)
    for name in wanted.state_dict():
        if name.endswith("num_batches_tracked"):  # which files of before PyTorch 0.4.1 lack, and nothing here reads
            tensors.setdefault(name, torch.tensor(0))
    if differing := differences(wanted.state_dict(), tensors):
        raise UserError(f"{path}: not {known.what}: {'; '.join(differing)}. Give the file as published.")
    encoder = build_encoder(**architecture)
    encoder.load_state_dict(tensors)
    return encoder


def import_weights(file: str, format: str, output: str) -> None:
    """Turn FILE, public weights of another project, into OUTPUT/encoder.pt with its manifest.

    Args:
        file: as downloaded; it is read as tensors and plain values, and nothing in it is executed.
        format: medicalnet (ResNet-10 to -200), anatomix, openmind (ResEnc-L), or desd (of the method's authors).
        output: a folder, such as weights/medicalnet.

    Raises:
        UserError: when the file is of another format, or output is no folder.
    """
    require_one_of(FORMATS, format=format)
    known, path = FORMATS[format], Path(output) / "encoder.pt"
    if Path(output).suffix == ".pt" or Path(output).is_file() or path.resolve() == Path(file).resolve():
        raise UserError(f"--output {output}: give another folder: encoder.pt and its manifest are written into it.")
    content = load_tensors(file, [Namespace])
    tensors, left = sorted_out(file, content, known)
    encoder = encoder_for(file, tensors, known)
    manifest = {
        "kind": "encoder",
        "architecture": encoder.architecture,
        "preprocessing": {"orientation": "RAS", "hu_window": None, **known.seen},
        "source": known.source + (", kernels turned to x, y, z" if known.turned else ""),
        "licence": known.licence,
    }
    save_weights(encoder, path, manifest | dict(known.views or {}))
    logger.info("%s: %d tensors of the encoder used.", path, len(tensors))
    for kind, count in sorted(left.items()):
        logger.info("left out: %s (%d)", kind, count)
    logger.warning("%s: licence: %s.", path, known.licence)
