"""Preprocessing: from a scan's file to what a network sees, the same in training, validation, evaluation and inference.

The settings that configs give (grid and intensities) are what manifests carry and what the cache is keyed by.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityd,
    Spacingd,
    SpatialResample,
)
from monai.utils import ensure_tuple

from ..base.classes import mark_ignored
from ..base.errors import UserError
from ..base.grids import Resampling
from .cache.entries import is_label
from .check import raise_problems
from .names import Scan, scan_files
from .read import ScanReader, open_volume
from .volume import NNUNET_READER, scan_path

INTENSITIES = ("hu", "zscore", "minmax", "nnunet")


def target_spacing(spacing: Any, scans: Sequence[Scan], on_bad_volume: str = "stop") -> list[float] | None:
    """The voxel size to resample to, in mm along the R, A, S axes; None keeps each scan's own grid.

    Args:
        spacing: null, one number, three numbers, or "median": per axis, of the scans in `scans`; None of none.
        scans: the training scans.
        on_bad_volume: "skip" takes the median of the scans whose header can be read; see `usable_records`.

    Raises:
        UserError: when `spacing` is none of these, or a header cannot be read.
    """
    spacing = spacing.tolist() if isinstance(spacing, np.ndarray | np.generic) else spacing
    if spacing is None or (spacing == "median" and not scans):
        return None
    if spacing == "median":
        return _median_spacing(scans, skip=on_bad_volume == "skip")
    values = [spacing] * 3 if isinstance(spacing, int | float) else spacing
    good = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == 3
    if not good or not all(isinstance(v, int | float) and 0 < v < math.inf for v in values):
        raise UserError(f"spacing={spacing!r}: give mm as one number, as [x, y, z], as median, or null for no change.")
    return [float(value) for value in values]


def _median_spacing(scans: Sequence[Scan], skip: bool) -> list[float]:
    sizes: list[tuple[float, ...]] = []
    problems: list[str] = []
    for scan in scans:
        try:
            sizes.append(open_volume(scan_files(scan)[0]).ras_spacing)
        except UserError as error:
            problems.append(str(error))
    if not sizes or not skip:
        raise_problems(problems, len(scans))
    return [round(float(size), 4) for size in np.median(sizes, axis=0)]


class SeparableResample(SpatialResample):
    """MONAI's resampling, and its inverse; linear from grid to parallel grid it is done one axis after the other.

    That gives the same to rounding in a tenth of the time and the memory; labels stay MONAI's, to the last tie.
    """

    def __call__(  # type: ignore[override]
        self, img: Any, dst_affine: Any = None, spatial_size: Any = None, *more: Any, **named: Any
    ) -> Any:
        """A volume (C, X, Y, Z) on the grid of ``dst_affine`` and ``spatial_size``; see MONAI's."""
        resampled = functools.partial(super().__call__, img, dst_affine, spatial_size, *more)
        if named.get("lazy") or named.get("mode") != "bilinear" or not isinstance(img, MetaTensor):
            return resampled(**named)
        way = Resampling(img.affine.numpy(), img.shape[1:], np.asarray(dst_affine), spatial_size)
        if img.pending_operations or not way.parallel:
            return resampled(**named)
        channels = [way(channel) for channel in img.as_tensor().float()]
        voxels = torch.stack(channels) if len(channels) > 1 else channels[0][None]  # one is not copied
        found = MetaTensor(voxels).copy_meta_from(img)
        planned: Any = resampled(**{**named, "lazy": True})
        found.push_applied_operation(planned.pending_operations[-1])  # what the inverse asks for
        found.affine = torch.as_tensor(dst_affine)
        return found


def windowed(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Intensities clipped to a window and scaled to [-1, 1]: ``ScaleIntensityRange``, bit for bit, with one copy."""
    scaled = image.float() - low
    scaled.div_(high - low).mul_(2).sub_(1).clamp_(-1, 1)
    return scaled


def as_nnunet_did(image: torch.Tensor) -> torch.Tensor:
    """The volume as it is, where nnU-Net has preprocessed it.

    Raises:
        UserError: for any other scan.
    """
    if not isinstance(image, MetaTensor) or image.meta.get("reader") != NNUNET_READER:
        raise UserError(
            f"{scan_path(image)}: was not preprocessed by nnU-Net, as the volumes that intensity=nnunet stands for: "
            "give a folder of nnUNet_preprocessed, with nnunet.yaml."
        )
    return image


class Preprocessing(Compose):
    """Read, turn to RAS, resample, scale the intensities: a `Compose` that can be inverted, as of MONAI's transforms.

    Args:
        keys: the entries of a scan, such as "image" or ["image", "label"]; labels are resampled to the nearest voxel.
        spacing: voxel size to resample to, in mm along R, A, S; None keeps each scan's own grid.
        intensity: "hu" clips to the window and scales it to [-1, 1], for CT; "zscore" takes each volume's and
            channel's mean off and divides by its standard deviation, for MR; "minmax" scales it to [0, 1], as some
            public weights want it; "nnunet" leaves them as nnU-Net did.
        hu_window: lower and upper end in HU; used with "hu" alone.
        orientation: of the axes.
        turn_labels: whether labels come along to the new grid; False leaves them as they are stored.
        ignore: the label value that becomes `IGNORE`; None where all voxels were annotated.
        plans: of nnU-Net, by which the volumes were preprocessed; told in the settings.

    Attributes:
        settings: what a manifest says of it.

    Raises:
        UserError: when intensity or window is no such thing.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        spacing: list[float] | None,
        intensity: str = "hu",
        hu_window: Sequence[float] | None = None,
        orientation: str = "RAS",
        turn_labels: bool = True,
        ignore: int | None = None,
        plans: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = preprocessing_settings(spacing, intensity, hu_window, orientation)
        if plans is not None:
            self.settings["plans"] = dict(plans)
        keys = ensure_tuple(keys)
        images = [key for key in keys if not is_label(key)]
        turned = keys if turn_labels else images
        # channels in a step of its own, for MONAI Deploy loads the scan itself and leaves LoadImaged out
        reader: Any = ScanReader()  # of all formats
        steps: list[Any] = [LoadImaged(keys, reader, image_only=True), EnsureChannelFirstd(keys)]
        if ignore is not None:
            steps.append(Lambdad([key for key in keys if is_label(key)], functools.partial(mark_ignored, value=ignore)))
        steps.append(Orientationd(turned, axcodes=orientation, labels=None))  # the scan's own space, whichever it names
        if spacing is not None:
            modes = ["nearest" if is_label(key) else "bilinear" for key in turned]
            spaced = Spacingd(turned, pixdim=spacing, mode=modes)
            spaced.spacing_transform.sp_resample = SeparableResample()
            steps.append(spaced)
        if window := self.settings["hu_window"]:
            steps.append(Lambdad(images, functools.partial(windowed, low=window[0], high=window[1])))
        elif intensity == "nnunet":
            steps.append(Lambdad(images, as_nnunet_did))
        elif intensity == "minmax":
            steps.append(ScaleIntensityd(images, channel_wise=True))
        else:
            steps.append(NormalizeIntensityd(images, channel_wise=True))
        super().__init__(steps)


def preprocessing_settings(
    spacing: list[float] | None, intensity: str, hu_window: Sequence[float] | None, orientation: str = "RAS"
) -> dict[str, Any]:
    """What the preprocessing did, as a manifest carries it.

    Raises:
        UserError: when `intensity` or the window is no such thing.
    """
    if intensity not in INTENSITIES:
        raise UserError(
            f"intensity={intensity!r}: choose hu (a window, for CT), zscore (per volume, for MR) or minmax."
        )
    try:
        window = [] if hu_window is None else [float(value) for value in hu_window]
    except (TypeError, ValueError):
        window = [math.nan]
    if (window or intensity == "hu") and not (len(window) == 2 and -math.inf < window[0] < window[1] < math.inf):
        raise UserError(f"hu_window={hu_window!r}: give the lower and the upper end in HU, such as [-1024, 1024].")
    kept = window if intensity == "hu" else None
    return {"orientation": orientation, "spacing": spacing, "intensity": intensity, "hu_window": kept}
