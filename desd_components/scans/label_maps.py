"""Telling label maps and results from scans: by names, by headers, by what an inference noted, and by their voxels."""

import gzip
import re
import struct
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.files import read_json
from .names import NIFTI_SUFFIXES, SUFFIXES, as_scans, files_of, path_tails, stem, without_suffix

# as BIDS (dseg, probseg, label-), ISLES (msk), 3D Slicer and ITK-SNAP (seg, label), FreeSurfer (aseg) and others write
_LABEL_WORD = (
    r"(d|a|prob|gm|wm|sc|lesion|pve|first|brain|lung|body|organ|tumou?r|vessel)?"
    r"(segm?s?|segmentations?|label(map)?s?|masks?|msk|gt|(ground)?truth|pred(iction)?s?|annot\w*|delin\w*|contours?)\d*"
)
_SECTION = r"[_-]?(t[rs]|va|val|train|training|validation|test|testing)"
_LABEL_FOLDER = re.compile(
    rf"(?i)({_LABEL_WORD}({_SECTION})?|ground[_ -]?truth|\w+[_-](labels|masks|segmentations|pred\w*))"
)
_LABEL_TOKEN = re.compile(rf"{_LABEL_WORD}|probs?|probabilit(y|ies)|(a|wm)parc|parcellation|[cgp]tv\d*", re.IGNORECASE)
_BETWEEN_TOKENS = re.compile(r"[_\-. +]|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # also of LabelMapVolume
_INTENT_LABEL = 1002  # NIFTI_INTENT_LABEL
_RECORDS = ("report.json", "inference_data.json")  # what an inference leaves beside its results, at its end or start
_SAMPLED = 200_000  # voxels of a volume
_MOST_VALUES, _LEAST_ZERO = 256, 0.25  # distinct values, and share of zero, of a label map
_LEAST_KEPT = 0.6  # share of a value's voxels whose next one has it, too, of the median value; zero is left out
WHOLE = 1e-3  # what stored numbers may differ from whole ones by rounding


def segmented_by(folder: Path, names: Collection[str]) -> set[str]:
    """The scans of an inference whose results lie below a folder, by the records that it left among these files."""
    return {file for name in _RECORDS if name in names for file in _recorded(folder / name)}


def _recorded(record: Path) -> list[str]:
    try:
        content = read_json(record)
    except UserError:
        return []
    content = content if isinstance(content, dict) else {}
    listed = content.get("segmented") if "failed" in content else content.get("scans")
    return files_of(as_scans(listed)) if isinstance(listed, list) else []


def own_results(found: Iterable[Path], segmented: Mapping[Path, Collection[str]]) -> list[Path]:
    """Files where an inference leaves a result, as `desd_components.runs.layout` has it, that are no scan of it.

    Args:
        found: files.
        segmented: folder of results -> scans; see `segmented_by`.
    """
    names = {
        folder: {t for file in files for t in path_tails(without_suffix(file))} for folder, files in segmented.items()
    }
    scans = {file for files in segmented.values() for file in files}

    def is_own(path: Path) -> bool:
        for folder in segmented.keys() & set(path.parents):
            inside, name = path.relative_to(folder).parent, stem(path).removesuffix("_prob")
            places = (inside, inside.parent) if inside.name == name else (inside,)  # perhaps in a folder of its own
            if any((place / name).as_posix() in names[folder] for place in places):
                return str(path) not in scans
        return False

    return list(filter(is_own, found)) if segmented else []


def is_mask(path: Path, root: Path) -> bool:
    """Whether a file below ``root`` is a label map by name (``x_seg.nii.gz``), folder (``labelsTr``) or header.

    A DICOM series never is: its headers have said already that it holds slices.
    """
    if not path.name.endswith(SUFFIXES):
        return False
    in_label_folder = any(map(_LABEL_FOLDER.fullmatch, path.relative_to(root).parts[:-1]))
    named = in_label_folder or any(map(_LABEL_TOKEN.fullmatch, _BETWEEN_TOKENS.split(stem(path))))
    return named or (path.name.endswith(NIFTI_SUFFIXES) and _says_label(path))


def _says_label(path: Path) -> bool:
    """Whether a NIfTI's header has the intent of a label map, as those that this package writes have.

    Read without nibabel, whose objects cost ten times as much: a folder may hold ten thousand scans.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            head = file.read(508)
        for size, kind, place in ((348, "h", 68), (540, "i", 504)):  # NIfTI-1 and NIfTI-2
            for order in "<>":
                if head[:4] == struct.pack(f"{order}i", size):
                    return bool(struct.unpack_from(order + kind, head, place)[0] == _INTENT_LABEL)
    except (OSError, EOFError, zlib.error, struct.error):  # the checks will say what is wrong with it
        pass
    return False


def looks_like_labels(voxels: np.ndarray) -> bool:
    """Whether the voxels of an image are those of a label map: a few whole numbers in patches, and much zero.

    In a scan of 8 bits, or one with a threshold, neighbours differ. An image of one channel is (X, Y, Z[, 1]).
    """
    sample = voxels.ravel(order="K")[:: max(1, voxels.size // _SAMPLED)]
    if len(np.unique(sample)) > _MOST_VALUES or np.mean(sample == 0) < _LEAST_ZERO or not are_whole(sample):
        return False
    pairs = [(voxels[:-1], voxels[1:]), (voxels[:, :-1], voxels[:, 1:]), (voxels[:, :, :-1], voxels[:, :, 1:])]
    inside = [(first != 0) & (second != 0) for first, second in pairs]
    first, second = (
        np.concatenate([pair[n][where] for pair, where in zip(pairs, inside, strict=True)]) for n in (0, 1)
    )
    if not are_whole(first):
        return False
    values, counts = np.unique(first, return_counts=True)
    kept = np.unique(np.concatenate([values, first[first == second]]), return_counts=True)[1] - 1
    return len(values) > 0 and float(np.median(kept / counts)) >= _LEAST_KEPT


def are_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers, but for the rounding of scaled ones."""
    return not np.issubdtype(values.dtype, np.floating) or bool(np.all(np.abs(values - np.rint(values)) < WHOLE))
