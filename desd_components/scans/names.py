"""What scans are called in files, messages and split files, told apart in one data set; and the formats read here."""

import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

NAMED = 3  # of many names in a message
Scan = dict[str, Any]  # {"image": path or list of paths, one per channel[, "label": path]}, as MONAI takes it
Sections = dict[str, list[Scan]]  # under "train", "validation" and "test"
_CHANNEL_SUFFIX = re.compile(r"_\d{4}$")  # nnU-Net's file names: case_0000, case_0001, ... one file per channel


def as_scans(data: Sequence[Scan | str]) -> list[Scan]:
    """Scans from scans or plain paths, as consumers put either into ``dataset#data``."""
    return [dict(item) if isinstance(item, Mapping) else {"image": str(item)} for item in data]


def scan_files(scan: Scan, keys: Sequence[str] = ("image", "label")) -> list[str]:
    """All files of a scan, in the order of ``keys``; an image of several files gives several."""
    entries = [scan[key] for key in keys if scan.get(key) is not None]
    return [str(file) for entry in entries for file in (entry if isinstance(entry, list | tuple) else [entry])]


def files_of(scans: Iterable[Scan]) -> list[str]:
    """All files of all scans, in order."""
    return [file for scan in scans for file in scan_files(scan)]


def each_once(scans: Iterable[Scan]) -> list[Scan]:
    """The scans, one of those that have the same files."""
    return list({tuple(scan_files(scan)): scan for scan in scans}.values())


def path_tails(path: str | Path) -> list[str]:
    """``c.nii``, ``b/c.nii``, ``a/b/c.nii`` of ``/a/b/c.nii``: all that a path may be called, the shortest first."""
    parts = Path(path).relative_to(Path(path).anchor).parts
    return ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]


def _first_single(names: Sequence[str], counts: Counter[str]) -> str:
    """The first name that at most one case has; the longest, where others have all of them."""
    return next((name for name in names if counts[name] < 2), names[-1])


def repeated(names: Iterable[str]) -> list[str]:
    """The names that stand more than once among these, each once, in order."""
    return [name for name, count in Counter(names).items() if count > 1]


def first_few(names: Sequence[str], count: int = NAMED) -> str:
    """The first few names, for a message, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def first_names(paths: Iterable[str | Path], among: Iterable[str | Path] = ()) -> str:
    """The first few file names, for a message, with as many folders as tell each from all others.

    Args:
        paths: of the files.
        among: all files that they may be taken for, themselves as well or not.
    """
    files = [str(path) for path in paths]
    counts = Counter(tail for file in {*files, *map(str, among)} for tail in path_tails(file))
    return first_few([*(_first_single(path_tails(file), counts) for file in files[:NAMED]), *files[NAMED:]])


def tell_left_out(
    source: Any, files: Sequence[str | Path], what: str, among: Iterable[str | Path] = (), level: int = logging.WARNING
) -> None:
    """Say in the log how many files of a source are left out, or are odd, and name the first; nothing of none."""
    if files:
        logger.log(level, "%s: %d %s: %s", source, len(files), what, first_names(files, among))


def without_channel(name: str) -> str:
    """nnU-Net's case of a file's stem: ``case`` of ``case_0000``."""
    return _CHANNEL_SUFFIX.sub("", name)


def channel_files(file: str) -> list[str]:
    """The file; where it is not there, but ``case_0000`` and so on are, those: nnU-Net's first lists say ``case``."""
    numbered = (_SUFFIX.sub(rf"_{number:04}\g<0>", file) for number in itertools.count())
    return (not os.path.exists(file) and list(itertools.takewhile(os.path.isfile, numbered))) or [file]


def case_ids(scan: Scan) -> list[str]:
    """The names under which a split file may list a scan, the likeliest first."""
    first = Path(scan_files(scan, ("image",))[0])
    alone, *tails = [without_suffix(tail) for tail in path_tails(first)]
    names = [alone, without_channel(alone), *tails[:1], first.parent.name, *tails[1:]]
    if "label" in scan:
        names.insert(0, stem(scan["label"]))
    return list(dict.fromkeys(names))


def scans_by_id(scans: Sequence[Scan]) -> dict[str, list[Scan]]:
    """The scans that each case id fits; one that is listed twice counts once."""
    by_name: dict[str, list[Scan]] = {}
    for scan in each_once(scans):
        for name in case_ids(scan):
            by_name.setdefault(name, []).append(scan)
    return by_name


class CaseNames:
    """Names for the cases of one data set, each fitting one case alone.

    They hold for any part of the data: whoever scores three scans of a hundred calls them as the hundred do. A case
    that cannot be mistaken for another keeps the short name of its file.

    Args:
        scans: ``{"image": path or [path per channel][, "label": path]}`` of all cases; one may stand there twice. By
            default none is known, and each case is called by its file alone.
    """

    def __init__(self, scans: Iterable[Scan] = ()) -> None:
        cases = each_once(scans)
        images = {scan_files(scan, ("image",))[0] for scan in cases}
        self._ids = Counter(name for scan in cases for name in case_ids(scan))
        self._tails = Counter(tail for image in images for tail in path_tails(image))

    def id(self, scan: Scan) -> str:
        """The case id for a split file: the first of `case_ids` that names no other case."""
        return _first_single(case_ids(scan), self._ids)

    def file(self, image: str | Path) -> str:
        """The file of an image, or of its first channel: ``imaging.nii.gz``, or ``case_00000/imaging.nii.gz``."""
        return _first_single(path_tails(image), self._tails)

    def image(self, image: str | Path) -> str:
        """The same without the suffix of the format, for people to read."""
        return without_suffix(self.file(image))


NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
#: of cases that nnU-Net has preprocessed, the newest form first; no folder is searched for them
NNUNET_SUFFIXES = (".b2nd", ".npy", ".npz")
#: volumes of formats that are not read; the .hdr of an .img is told with it
_UNREAD_SUFFIXES = (".img", ".mgz", ".mgh", ".mnc", ".mif", ".brik", ".gipl", ".nii.bz2", ".nii.xz", ".nii.zst")
FORMATS = ".nii, .nii.gz" + ", .nrrd, .nhdr, .mha, .mhd or DICOM series" * bool(find_spec(f"{__package__}.itk"))
_SUFFIX = re.compile(r"\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|dcm|ima|b2nd|npy|npz)$", re.IGNORECASE)
_DICOM_SUFFIXES = (".dcm", ".ima")
# files that people keep beside scans; the first bytes of anything else are looked at
_OTHER_SUFFIXES = (
    ".nii", ".gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".json", ".txt", ".csv", ".tsv", ".md", ".png", ".jpg",
    ".xml", ".npy", ".npz", ".zip", ".pt", ".py", ".yaml", ".yml", ".pdf", ".log",
)  # fmt: skip
# tags (0002,0000), (0008,0000), (0008,0005), (0008,0008): the first of a file without preamble, as they lie there
_FIRST_ELEMENTS = (b"\2\0\0\0", b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0")


def why_unread(name: str) -> tuple[str, str, str] | None:
    """Of a file that looks like a scan and is not read: in a word, in a phrase, and what to do; None of all others."""
    if name.lower().endswith(SUFFIXES) and not name.endswith(SUFFIXES):
        return "suffix", "its suffix is not in small letters", "rename it"
    if name.lower().removesuffix(".gz").endswith(_UNREAD_SUFFIXES):
        return "format", "its format is not read", "convert it to NIfTI"
    return None


def stem(path: str | Path) -> str:
    """The name of a scan: that of its file without the format's suffix, or that of its series' folder."""
    return without_suffix(Path(path).name)


def without_suffix(path: str) -> str:
    """A path without the suffix of a scan's format; the folders in front stay."""
    return _SUFFIX.sub("", path)


def result_name(path: str | Path, postfix: str = "", extension: str | None = None) -> str:
    """The file name of a scan's result: of the given extension, or NIfTI, compressed unless the scan is not."""
    return f"{stem(path)}{postfix}{extension or ('.nii' if Path(path).name.endswith('.nii') else '.nii.gz')}"


def may_be_dicom(file: str) -> bool:
    """Whether a file is worth a look: by its suffix, or by how it begins."""
    lower = file.lower()
    return lower.endswith(_DICOM_SUFFIXES) or (not lower.endswith(_OTHER_SUFFIXES) and is_dicom(file))


def is_dicom(file: str) -> bool:
    """Whether a file bears DICOM's suffix or mark, or begins as DICOM does where the mark was left out."""
    if not os.path.isfile(file):  # a named pipe would be waited for, without end
        return False
    if file.lower().endswith(_DICOM_SUFFIXES):
        return True
    try:
        with open(file, "rb") as stream:
            start = stream.read(132)
            return start[128:] == b"DICM" or start[:4] in _FIRST_ELEMENTS
    except OSError:
        return False
