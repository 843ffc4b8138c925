"""The slices of one DICOM file: what its header says of each, and their values.

A classic file holds one slice. An enhanced (multi-frame) one holds many, and says in its functional groups, of each
frame or of all of them together, where they lie and how their values are rescaled; what else such a file says of its
frames (stacks, phases, echoes) is not looked at, for positions and directions tell it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...base.errors import UserError, one_line, optional_module
from ..volume import NOT_INSTALLED

NO_READER = f"reading DICOM needs pydicom, {NOT_INSTALLED}"

#: what `slices_of` reads of a header
TAGS = [
    "SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "SamplesPerPixel", "PhotometricInterpretation", "RescaleSlope", "NumberOfFrames", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
#: where a slice lies: the functional group, and the element, which in a classic header stands alone
_PLACE = (
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing"),
)
_DIRECTION_TOLERANCE = 0.01  # of lengths and the cosine between them: headers are rounded
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


class Slice(NamedTuple):
    """What a header says of one slice.

    Attributes:
        file: its path.
        frame: its number within the file, from 0; None in a classic file, which holds no other.
        instance: ``SOPInstanceUID`` of the file.
        position: of the centre of its first pixel, LPS+ in mm.
        orientation: unit vectors along a row and down a column, LPS+.
        spacing: mm between rows, mm between columns.
        size: rows, columns.
        is_grey: whether a pixel is one value, and that no number of a colour in a palette.
        low_is_white: whether its lowest values are to be shown white (MONOCHROME1); they are taken as stored.
        is_rescaled: whether it says how its values come of the stored ones.
        syntax: transfer syntax, that is, how its pixels are compressed.
        has_pixels: whether there are any.
    """

    file: str
    frame: int | None
    instance: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    size: tuple[int, int]
    is_grey: bool
    low_is_white: bool
    is_rescaled: bool
    syntax: str
    has_pixels: bool


def read_dicom(source: Any, file: str, **options: Any) -> Any:
    """A DICOM data set, be its preamble there or not: old archives leave it out, and some the group behind it, too.

    Args:
        source: the file, or a stream of it.
        file: its path, for errors.
        options: of ``pydicom.dcmread``.

    Raises:
        pydicom.errors.InvalidDicomError: when it is no DICOM object.
    """
    pydicom = optional_module("pydicom", f"{file}: {NO_READER}")
    data = pydicom.dcmread(source, force=True, **options)
    if data.preamble is None and not ("Rows" in data or "SOPClassUID" in data):
        raise pydicom.errors.InvalidDicomError(f"{file} has neither DICOM's mark nor its elements")
    if not data.file_meta.get("TransferSyntaxUID"):
        little = pydicom.uid.ImplicitVRLittleEndian if data.original_encoding[0] else pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = little if data.original_encoding[1] else pydicom.uid.ExplicitVRBigEndian
    return data


def slices_of(file: str, header: Any, has_pixels: bool) -> tuple[Slice, ...]:
    """The slice of a classic file, or one for each frame, from a header of which `TAGS` were read."""
    frames = int(header.get("NumberOfFrames") or 1)
    enhanced = frames > 1 or _PER_FRAME in header
    return tuple(_slice(file, header, frame if enhanced else None, has_pixels) for frame in range(frames))


def _slice(file: str, header: Any, frame: int | None, has_pixels: bool) -> Slice:
    meta = header.file_meta
    position, orientation, spacing = (_said(header, frame, group, name) for group, name in _PLACE)
    shown = header.get("PhotometricInterpretation")
    return Slice(
        file,
        frame,
        str(header.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or ""),
        _numbers(position, 3, bool),
        _numbers(orientation, 6, _perpendicular),
        _numbers(spacing, 2, lambda values: min(values) > 0),
        (int(header.Rows), int(header.Columns)),
        int(header.get("SamplesPerPixel") or 1) == 1 and shown != "PALETTE COLOR",
        shown == "MONOCHROME1",
        _said(header, frame, "PixelValueTransformationSequence", "RescaleSlope") is not None,
        str(meta.TransferSyntaxUID),
        has_pixels,
    )


def _said(header: Any, frame: int | None, group: str, name: str) -> Any:
    """What is said of a slice: by the header of a classic file, by a functional group of an enhanced one."""
    found = header if frame is None else _group(header, frame, group)
    return None if found is None else found.get(name)


def _group(header: Any, frame: int, name: str) -> Any:
    """A functional group of a frame, its own before that of all frames; None where there is neither."""
    own = (header.get(_PER_FRAME) or [])[frame : frame + 1]
    for groups in (*own, *(header.get(_SHARED) or [])):
        if found := groups.get(name):
            return found[0]
    return None


def _numbers(value: Any, count: int, good: Callable[[tuple[float, ...]], bool]) -> tuple[float, ...] | None:
    """So many finite numbers of which something is true; None for anything else."""
    numbers = tuple(float(number) for number in value) if value is not None and len(value) == count else None
    return numbers if numbers is not None and np.isfinite(numbers).all() and good(numbers) else None


def _perpendicular(values: tuple[float, ...]) -> bool:
    """Whether two directions are unit vectors at a right angle: any others make no grid."""
    vectors = np.reshape(values, (2, 3))
    return bool(np.abs(vectors @ vectors.T - np.eye(2)).max() <= _DIRECTION_TOLERANCE)


def opened(file: str) -> Any:
    """A file with its pixels, not decoded yet.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        return read_dicom(file, file)
    except Exception as error:
        raise _cannot_be_decoded(file, error) from error


def slice_values(dataset: Any, one: Slice) -> np.ndarray:
    """The pixels (rows, columns) of a slice in float32, of its file, `opened`; by its own rescale slope and intercept.

    Raises:
        UserError: when they cannot be decoded, or the rescaling is none; pydicom passes over half of one.
    """
    pixels = optional_module("pydicom.pixels", f"{one.file}: {NO_READER}")
    rescaling = None if one.frame is None else _group(dataset, one.frame, "PixelValueTransformationSequence")
    rescaling = dataset if rescaling is None else rescaling
    slope, intercept = rescaling.get("RescaleSlope"), rescaling.get("RescaleIntercept")
    if slope == 0 or (slope is None) is not (intercept is None):
        what = f"its rescale slope is {slope} and its intercept {intercept}, which gives no values"
        raise UserError(f"{one.file}: {what}: export it again, or leave its series out.")
    try:
        rest = dataset.get("PixelData", b"")[pixels.utils.get_expected_length(dataset) :]
        if not dataset.file_meta.TransferSyntaxUID.is_encapsulated and rest.strip(b"\0"):
            raise ValueError("more follows its pixels, so that its header is of another image")
        stored = pixels.pixel_array(dataset, index=one.frame or 0)
        return np.asarray(pixels.apply_modality_lut(stored, rescaling), dtype=np.float32)
    except Exception as error:
        raise _cannot_be_decoded(one.file, error) from error


def _cannot_be_decoded(file: str, error: Exception) -> UserError:
    why = one_line(error)
    return UserError(f"{file}: its pixels cannot be decoded ({why}): export it again, or leave its series out.")


def files_of(slices: Sequence[Slice]) -> list[str]:
    """The files that hold the slices, each once."""
    return list(dict.fromkeys(one.file for one in slices))
