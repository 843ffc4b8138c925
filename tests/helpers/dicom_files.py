"""Tiny DICOM series for tests, written by pydicom from a volume and its RAS+ affine, with whatever faults are asked."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from desd_components.scans.volume import to_ras

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: DICOM is not tried")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

Change = Callable[[Dataset, int], None]  # of one slice's dataset, by its number


def hounsfield(shape: tuple[int, int, int] = (7, 6, 8), seed: int = 0) -> np.ndarray:
    """Whole HU, different in every voxel, as a scanner stores them."""
    return np.random.default_rng(seed).integers(-1000, 1500, size=shape).astype(np.int16)


def write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    leave_out: Sequence[int] = (),
    lean: float = 0.0,
    change: Change | None = None,
    names: Callable[[int], str] = "{}.dcm".format,
    uid: str | None = None,
) -> Path:
    """Write a CT series.

    Args:
        folder: where to.
        voxels: (X, Y, Z), whole HU.
        affine: (4, 4), voxel to RAS+ in mm, without shear.
        leave_out: numbers of slices that are not written.
        lean: mm by which each slice is shifted along its columns against the one before.
        change: applied to every slice before it is written.
        names: file name by number.
        uid: of the series; None makes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"series": uid or generate_uid(), "study": generate_uid(), "frame": generate_uid()}
    for number in range(voxels.shape[2]):
        dataset = _slice(voxels[:, :, number], number, to_ras(affine), lean, shared)
        if change is not None:
            change(dataset, number)
        if number not in leave_out:
            dataset.save_as(folder / names(number), enforce_file_format=True)
    return folder


def _slice(pixels: np.ndarray, number: int, lps: np.ndarray, lean: float, uids: dict[str, str]) -> Dataset:
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    across, down = lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]
    slope, intercept = float(1 + number % 2), -1024.0 - 2 * number  # each slice has its own
    stored = np.round((pixels.T - intercept) / slope)
    data = _identity(uids, number)
    data.ImagePositionPatient = [float(v) for v in lps[:3, 3] + number * (lps[:3, 2] + lean * down)]
    data.ImageOrientationPatient = [float(value) for value in (*across, *down)]
    data.PixelSpacing = [float(spacing[1]), float(spacing[0])]
    data.SliceThickness = float(spacing[2])
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = stored.astype("<u2").tobytes()
    return data


def _identity(uids: dict[str, str], number: int) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = uids["study"], uids["series"]
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = uids["frame"], ""
    data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", "3", str(number + 1)
    data.SeriesDescription, data.ImageType = "thorax", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = "1", "A^B", "", ""
    data.StudyID, data.StudyDate, data.StudyTime, data.AccessionNumber = "1", "20240102", "120000", ""
    data.ReferringPhysicianName, data.Manufacturer = "", "none"
    return data


def write_enhanced(
    file: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    order: Sequence[int] | None = None,
    shared: Sequence[str] = ("PlaneOrientationSequence", "PixelMeasuresSequence"),
    lean: float = 0.0,
    change: Change | None = None,
    whole: Callable[[Dataset], None] | None = None,
    uid: str | None = None,
) -> Path:
    """Write what `write_series` writes as one file of many frames.

    Args:
        file: where to.
        voxels: (X, Y, Z), whole HU.
        affine: (4, 4), voxel to RAS+ in mm, without shear.
        order: numbers of the slices as they follow each other in the file, some of them perhaps left out.
        shared: functional groups that are said once for all frames.
        lean: as there.
        change: applied to the slice of each frame, as a classic file would hold it.
        whole: applied to the dataset before it is written.
        uid: of the series; None makes one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    uids = {"series": uid or generate_uid(), "study": generate_uid(), "frame": generate_uid()}
    numbers = range(voxels.shape[2]) if order is None else order
    slices = [_slice(voxels[:, :, number], number, to_ras(affine), lean, uids) for number in numbers]
    for number, one in zip(numbers, slices, strict=True):
        if change is not None:
            change(one, number)
    data = slices[0].copy()
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    data.NumberOfFrames, data.PixelData = len(slices), b"".join(one.PixelData for one in slices)
    groups = [_functional_groups(one) for one in slices]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del data[name]
    for_all = Dataset()
    for name in shared:
        for_all[name] = groups[0][name]
        for one in groups:
            del one[name]
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [for_all], groups
    if whole is not None:
        whole(data)
    data.save_as(file, enforce_file_format=True)
    return file


def _functional_groups(one: Dataset) -> Dataset:
    """What a classic slice says of itself, as an enhanced file says it of a frame."""
    groups = Dataset()
    for group, names in {
        "PlanePositionSequence": ("ImagePositionPatient",),
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
        "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    }.items():
        item = Dataset()
        for name in names:
            item[name] = one[name]
        setattr(groups, group, [item])
    groups.PixelValueTransformationSequence[0].RescaleType = "HU"
    return groups


def stored_grid(voxels: np.ndarray) -> np.ndarray:
    """The HU that `write_series` can store: those of odd slices in steps of two."""
    values = voxels.astype(np.float64)
    for number in range(1, voxels.shape[2], 2):
        intercept = -1024.0 - 2 * number
        values[:, :, number] = np.round((values[:, :, number] - intercept) / 2) * 2 + intercept
    return values


def change(numbers: Sequence[int] = range(99), without: Sequence[str] = (), **values: Any) -> Change:
    """Of the slices of these numbers, other values, and some taken out."""

    def apply(dataset: Dataset, number: int) -> None:
        if number in numbers:
            for name in without:
                del dataset[name]
            dataset.update(values)

    return apply


localizer = change(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


def two_times(dataset: Dataset, number: int) -> None:
    """Two slices at each place."""
    dataset.ImagePositionPatient = [0.0, 0.0, 2.5 * (number // 2)]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def read_back(file: Path) -> Any:
    return pydicom.dcmread(file)
