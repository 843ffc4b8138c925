"""A pre-trained encoder as a checkpoint that nnU-Net starts from: its own network, the decoder as it initialises it.

Form: what ``nnUNetv2_train -pretrained_weights`` of nnU-Net 2.8 reads (``network_weights``, every tensor of the network
but those of ``seg_layers``), and the ``nnssl_adaptation_plan`` by which later versions find encoder and stem.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from desd_components.base.errors import UserError, optional_module
from desd_components.base.networks import with_layers
from desd_components.scans.nnunet.plans import NnunetPlans

CLASSES = 2  # of the network that is built; the layers that depend on it are not read


def refuse_other_plans(weights: str | Path, manifest: Mapping[str, Any], plans: NnunetPlans, allow: bool) -> None:
    """Refuse an encoder that the plans do not name, or that saw other volumes than nnU-Net will give it.

    Raises:
        UserError: naming the first difference.
    """
    found, wanted = manifest.get("architecture", {}), plans.encoder
    if "architecture" not in manifest or manifest.get("kind") != "encoder":
        raise UserError(f"{weights}: is no encoder: give the encoder.pt of a pre-training with nnunet.yaml.")
    for key in dict.fromkeys([*wanted, *found]):
        if found.get(key) != wanted.get(key):
            raise UserError(
                f"{weights}: {key} of the encoder is {found.get(key)!r}, {plans.path.name} plans {wanted.get(key)!r}: "
                "give the plans that it was pre-trained by, or pre-train by these, with nnunet.yaml."
            )
    saw = manifest.get("preprocessing", {}).get("plans") or {"dataset_name": "volumes that nnU-Net did not preprocess"}
    for key in ("dataset_name", "spacing", "normalization_schemes"):
        if saw.get(key) != plans.identity[key] and not allow:
            raise UserError(
                f"{weights}: was pre-trained on other volumes: {key} was {saw.get(key)!r}, {plans.path.name} says "
                f"{plans.identity[key]!r}: give its own plans, or --allow-other-plans true."
            )


def planned_network(plans: NnunetPlans) -> Any:
    """The whole network of nnU-Net's plans, initialised as nnU-Net does.

    Raises:
        UserError: when the package dynamic_network_architectures is not installed.
    """
    package = "dynamic_network_architectures"
    missing = f"{package} is not installed: pip install {package}, or export where nnU-Net is installed."
    unets = optional_module(f"{package}.architectures.unet", missing)
    kind = getattr(unets, plans.network["network_class_name"].rpartition(".")[2])
    network = kind(input_channels=plans.in_channels, num_classes=CLASSES, **with_layers(plans.network["arch_kwargs"]))
    return network.apply(network.initialize)


def write_nnunet(encoder: nn.Module, path: Path, plans: NnunetPlans) -> None:
    """A checkpoint for ``-pretrained_weights``: the planned network with the tensors of `encoder`."""
    network = planned_network(plans)
    network.encoder.load_state_dict(encoder.get_submodule("network").state_dict())
    torch.save(
        {"network_weights": network.state_dict(), "nnssl_adaptation_plan": adaptation_plan(network, plans)}, path
    )


def adaptation_plan(network: Any, plans: NnunetPlans) -> dict[str, Any]:
    """What later versions of nnU-Net want to know of a checkpoint, in plain values."""
    seen = {name: plans.identity[name] for name in ("spacing", "normalization_schemes")}
    return {
        "architecture_plans": {
            "arch_class_name": plans.network["network_class_name"],
            "arch_kwargs": plans.network["arch_kwargs"],
            "arch_kwargs_requiring_import": plans.network["_kw_requires_import"],
        },
        "pretrain_plan": {"configurations": {plans.configuration: {**seen, "patch_size": plans.patch_size}}},
        "pretrain_num_input_channels": plans.in_channels,
        "recommended_downstream_patchsize": plans.patch_size,
        "key_to_encoder": network.key_to_encoder,
        "key_to_stem": network.key_to_stem,
        "keys_to_in_proj": list(network.keys_to_in_proj),
        "key_to_lpe": network.key_to_lpe,
    }
