"""Segmentations as DICOM-SEG objects that refer to the series they were made of.

Labels come on the grid that a series was read on; each slice of the series takes what lies under its own pixels
(nearest neighbour), so that a series that was interpolated (tilt, missing slices) gets a segmentation on its own
slices, too. Class names become segment labels; the codes say "anatomical structure", for a label map knows no more.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import FolderLayoutBase
from monai.transforms import MapTransform

from ...base.errors import UserError, one_line, optional_module
from ...base.files import written_whole
from ...base.version import __version__
from ..volume import NOT_INSTALLED, to_ras
from .series import series_at
from .slices import Slice, files_of, read_dicom
from .volume import stack_of

logger = logging.getLogger(__name__)


SERIES_NUMBER = 3000  # scanners number from 1, and leave this to others
_REFERRED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


def write_dicom_seg(
    labels: np.ndarray, affine: np.ndarray, scan: str, path: str | Path, class_names: Sequence[str]
) -> None:
    """Write a label map as DICOM-SEG, a segment for each class but the background.

    Args:
        labels: (X, Y, Z), label values.
        affine: (4, 4), voxel to RAS+ in mm.
        scan: the DICOM series that was segmented, as a data list does.
        path: the file to write.
        class_names: by label value, background first.

    Raises:
        UserError: when the series' headers lack what a segmentation has to refer to, or highdicom is not installed.
    """
    highdicom = optional_module("highdicom", f"{scan}: writing DICOM-SEG needs highdicom, {NOT_INSTALLED}")
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells of every module of headers that it copies
    slices = _as_referred_to(scan, stack_of(series_at(scan)).slices)
    headers, name = _headers(scan, files_of(slices)), "DeSD segmentation"
    try:
        segmentation = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=labels_on_slices(labels, affine, slices),
            segmentation_type="BINARY",
            segment_descriptions=_segments(highdicom, class_names, name),
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            device_serial_number="1",
            series_description=name,
            manufacturer="desd_components",
            manufacturer_model_name=name,
            software_versions=__version__,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # of headers that lack something
        raise _nifti_alone(scan, f"highdicom makes no DICOM-SEG of it ({one_line(error)})") from error
    segmentation.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, for classes may have names in any script
    with written_whole(Path(path)) as part:
        segmentation.save_as(part)


def _as_referred_to(scan: str, slices: Sequence[Slice]) -> Sequence[Slice]:
    """The slices in the order in which highdicom counts them: the frames of one file, or one slice of each of many."""
    if all(one.frame is None for one in slices):
        return slices
    if len(files_of(slices)) > 1:
        raise _nifti_alone(scan, "consists of several multi-frame files, to which no DICOM-SEG is written")
    return sorted(slices, key=lambda one: one.frame or 0)


def labels_on_slices(labels: np.ndarray, affine: np.ndarray, slices: Sequence[Slice]) -> np.ndarray:
    """What lies under the pixels of each slice: (slices, rows, columns) of the type that highdicom takes.

    Labels and affine are those of `write_dicom_seg`; the slices have a position, and one size and direction.
    """
    from scipy import ndimage

    labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
    rows, columns = slices[0].size
    planes = []
    for one in slices:
        place = np.eye(4)  # pixel (column, row, 0) to LPS+
        place[:3, :2] = np.reshape(np.array(one.orientation), (2, 3)).T * np.array(one.spacing)[::-1]
        place[:3, 3] = one.position
        voxel = np.linalg.inv(affine) @ to_ras(place)
        # "constant" would take a voxel on the border that is missed by 1e-9 for one outside
        plane = ndimage.affine_transform(
            labels, voxel[:3, :3], voxel[:3, 3], (columns, rows, 1), order=0, mode="grid-constant"
        )
        planes.append(plane[:, :, 0].T)
    return np.stack(planes)


def _headers(scan: str, files: Sequence[str]) -> list[Any]:
    """The headers of the files, with their identity where the file's own preamble alone holds it."""
    headers = [read_dicom(file, file, stop_before_pixels=True) for file in files]
    for header in headers:
        for name in ("SOPClassUID", "SOPInstanceUID"):
            setattr(header, name, header.get(name) or header.file_meta.get(f"MediaStorage{name}"))
    if absent := [name for name in _REFERRED if not headers[0].get(name)]:
        why = "(taken away when it was anonymised?): a DICOM-SEG cannot refer to it"
        raise _nifti_alone(scan, f"has no {' and no '.join(absent)} {why}")
    return headers


def _nifti_alone(scan: str, why: str) -> UserError:
    return UserError(f"{scan}: {why}; its labels are written as NIfTI alone.")


def _segments(highdicom: Any, class_names: Sequence[str], name: str) -> list[Any]:
    coding = optional_module("pydicom.sr.coding", f"{name}: needs pydicom, {NOT_INSTALLED}")
    structure = coding.Code("123037004", "SCT", "Anatomical Structure")
    network = coding.Code("123109", "DCM", "Artificial Intelligence")
    algorithm = highdicom.AlgorithmIdentificationSequence(name=name, family=network, version=__version__)
    return [
        highdicom.seg.SegmentDescription(
            segment_number=value,
            segment_label=class_name,
            segmented_property_category=structure,
            segmented_property_type=structure,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for value, class_name in enumerate(class_names[1:], start=1)
    ]


class SaveDicomSegd(MapTransform):
    """Write the label map of each scan that came as a DICOM series as DICOM-SEG; for others say that there is none.

    Args:
        keys: the label map, (1, X, Y, Z) with the affine of the scan.
        layout: where the file goes, by the scan's name.
        class_names: by label value, background first.
    """

    def __init__(self, keys: KeysCollection, layout: FolderLayoutBase, class_names: Sequence[str]) -> None:
        super().__init__(keys)
        self.layout, self.class_names = layout, list(class_names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write; the sample itself is passed on unchanged."""
        for key in self.key_iterator(dict(data)):
            self._write(data[key])
        return dict(data)

    def _write(self, labels: Any) -> None:
        scan = str(labels.meta["filename_or_obj"])
        if labels.meta.get("reader") != "DICOM":
            logger.warning("%s: is no DICOM series, so that no DICOM-SEG can refer to it", scan)
            return
        values = labels[0].as_subclass(torch.Tensor).cpu().numpy().round().astype(np.int64)
        try:
            path = str(self.layout.filename(subject=scan))
            write_dicom_seg(values, np.asarray(labels.affine), scan, path, self.class_names)
        except UserError as error:  # the NIfTI is written already; the rest goes on
            logger.warning("%s", error)
