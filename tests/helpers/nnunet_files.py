"""Data sets as nnU-Net leaves them preprocessed: plans, and arrays of noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np

PLAIN: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
RESIDUAL: dict[str, Any] = {
    **PLAIN,
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        **{name: value for name, value in PLAIN["arch_kwargs"].items() if name != "n_conv_per_stage"},
        "n_blocks_per_stage": [1, 1, 2],
    },
}


def write_plans(folder: Path, architecture: dict[str, Any] = PLAIN, channels: int = 1, **more: Any) -> Path:
    """A data set's folder with the plans of one 3D and one 2D configuration; `more` changes the 3D one."""
    fullres = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "patch_size": [12, 24, 24],
        "median_image_size_in_voxels": [20.0, 22.0, 24.0],
        "spacing": [2.5, 1.0, 0.5],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "architecture": architecture,
        **more,
    }
    flat = {**fullres, "data_identifier": "nnUNetPlans_2d", "patch_size": [24, 24], "spacing": [1.0, 1.0]}
    low = {"inherits_from": "3d_fullres", "data_identifier": "nnUNetPlans_3d_lowres", "spacing": [5.0, 2.0, 1.0]}
    configurations = {"2d": flat, "3d_fullres": fullres, "3d_lowres": low}
    folder.mkdir(parents=True, exist_ok=True)
    named = {"dataset_name": folder.name, "plans_name": "nnUNetPlans", "configurations": configurations}
    (folder / "nnUNetPlans.json").write_text(json.dumps(named))
    return folder / "nnUNetPlans.json"


def write_case(folder: Path, name: str, suffix: str = ".npz", channels: int = 1, seed: int = 0) -> np.ndarray:
    """A case with its segmentation beside it, or in the file of an ``.npz``; returns the array (C, X, Y, Z)."""
    folder.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(size=(channels, 20, 22, 24)).astype(np.float32)
    seg = (data[:1] > 1).astype(np.int8)
    if suffix == ".npz":
        np.savez_compressed(folder / f"{name}.npz", data=data, seg=seg)
    for ending, array in (("", data), ("_seg", seg)) if suffix != ".npz" else ():
        if suffix == ".npy":
            np.save(folder / f"{name}{ending}.npy", array)
        else:
            import blosc2

            blosc2.asarray(array, urlpath=str(folder / f"{name}{ending}.b2nd"), chunks=(1, 10, 11, 12))
    (folder / f"{name}.pkl").write_bytes(b"not to be opened")
    return data
