"""Weights files of other projects, as people hand them over by mistake."""

import torch
from monai.networks.nets import resnet10
from torch import nn


class _Odd:
    """An object that is no tensor."""


def foreign_weights() -> dict[str, tuple[object, str]]:
    """Whose file -> (its content, what a refusal must say of it)."""
    tensors = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)).state_dict()
    lightning = {"epoch": 3, "pytorch-lightning_version": "2.6.6", "state_dict": tensors, "optimizer_states": []}
    return {
        "another network": (tensors, r"0\.weight"),
        "MONAI's ResNet": (resnet10(n_input_channels=1, widen_factor=0.125).state_dict(), r"conv1\.weight"),
        "Lightning": (lightning, r"a Lightning checkpoint \(epoch, pytorch-lightning_version, state_dict, \.\.\.\)"),
        "nnU-Net": (
            {"network_weights": tensors, "optimizer_state": {}, "current_epoch": 3},
            r"an nnU-Net checkpoint \(network_weights, optimizer_state, current_epoch\)",
        ),
        "a tensor": (torch.ones(2, 3), r"a single tensor of shape \(2, 3\)"),
        "nothing": ({}, "an empty dict"),
        "a list": ([torch.ones(2)], "a list"),
        "an object": ({"model": _Odd()}, r"holds a foreign_weights\._Odd"),
    }
