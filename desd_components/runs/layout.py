"""Where the results of an inference go: under each scan's own name and sub-folder, and never over a scan."""

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import FolderLayoutBase

from ..base.errors import UserError
from ..base.files import told_if_unwritable
from ..scans.lists import data_list_sections, is_decathlon
from ..scans.names import CaseNames, Scan, result_name, scan_files, stem


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # not resolved: a link to a scan keeps its own name


def scans_root(dataset_dir: str | Path, scans: Sequence[Scan]) -> Path:
    """The folder below which sub-folders are kept: `dataset_dir`, or what the scans of a list have in common.

    A Decathlon folder is a list, too: its ``imagesTr`` says nothing about a scan. A folder that tells a scan from
    others of its list is kept, even if the run has this scan alone.
    """
    path = _absolute(Path(dataset_dir).expanduser())
    if not scans or (path.is_dir() and not is_decathlon(path)):
        return path
    names = CaseNames(_listed(path))
    images = [_absolute(scan_files(scan, ("image",))[0]) for scan in scans]
    return Path(os.path.commonpath([image.parents[names.file(image).count("/")] for image in images]))


def _listed(path: Path) -> list[Scan]:
    """All scans of a list or of a Decathlon folder; none of one scan."""
    source = path / "dataset.json" if path.is_dir() else path
    if source.suffix != ".json":
        return []
    return [scan for part in data_list_sections(source, tell=False).values() for scan in part]


class ScanLayout(FolderLayoutBase):
    """Where results go: under the scan's own name and sub-folder.

    Args:
        output_dir: the folder of results.
        root: scans below it keep their sub-folders; None: only the name counts, until `keep_subfolders` says more.
        postfix: added to the name after an underscore; none by default.
        separate_folder: one folder for each scan, as MONAI writes by default; off here.
        extension: instead of the scan's own; by default ``.nii`` for such a scan, and ``.nii.gz`` for all others.
    """

    def __init__(
        self,
        output_dir: str | Path,
        root: str | Path | None = None,
        postfix: str = "",
        separate_folder: bool = False,
        extension: str | None = None,
    ) -> None:
        self.output_dir, self.root = Path(output_dir), None if root is None else _absolute(root)
        self.postfix, self.separate_folder, self.extension = postfix, separate_folder, extension

    def filename(self, subject: Any = "subject", idx: Any = None, **kwargs: Any) -> str:
        """The path for the result of the scan `subject`; its folder is made.

        Raises:
            UserError: when it cannot be, or the path is longer than the system takes.
        """
        scan = _absolute(str(subject))
        folder = self.output_dir / self._inside(scan) / (stem(scan) if self.separate_folder else "")
        path = folder / result_name(scan, f"_{self.postfix}" if self.postfix else "", self.extension)
        with told_if_unwritable(path), contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            path.lstat()
        return str(path)

    def image(self, scan: str | Path) -> str:
        """What a scan is called, as `CaseNames.image` does: its sub-folder and name, which its results have, too."""
        return (self._inside(_absolute(scan)) / stem(scan)).as_posix()

    def _inside(self, scan: Path) -> Path:
        # the root itself may be the scan: a folder of one DICOM series
        return scan.parent.relative_to(self.root) if self.root and self.root in scan.parents else Path()


class ResultLayouts:
    """The layouts of all that a segmentation writes of a scan; None for what it does not.

    Args:
        output_dir: the folder of results.
        separate_folder: one folder for each scan.
        probabilities, dicom_seg, outlines: whether these are written beside the labels.
    """

    def __init__(
        self,
        output_dir: str | Path,
        separate_folder: bool = False,
        probabilities: bool = False,
        dicom_seg: bool = False,
        outlines: bool = False,
    ) -> None:
        folder, each = Path(output_dir), separate_folder
        self.labels = ScanLayout(folder, separate_folder=each)
        self.probabilities = ScanLayout(folder, postfix="prob", separate_folder=each) if probabilities else None
        self.dicom = ScanLayout(folder, separate_folder=each, extension=".dcm") if dicom_seg else None
        self.outlines = ScanLayout(folder / "outlines", extension=".png") if outlines else None

    @property
    def all(self) -> list[ScanLayout]:
        """Those that there are."""
        layouts = (self.labels, self.probabilities, self.dicom, self.outlines)
        return [layout for layout in layouts if layout is not None]


def keep_subfolders(dataset_dir: str | Path, scans: Sequence[Scan], layouts: Sequence[ScanLayout]) -> None:
    """Tell `layouts` where the scans of a run lie; those who segment one scan of their own build them without a folder.

    Args:
        dataset_dir, scans: as for `scans_root`.
        layouts: where the results of this run go.
    """
    root = scans_root(dataset_dir, scans)
    for layout in layouts:
        layout.root = root


def refuse_overwriting(scans: Sequence[Scan], layouts: Sequence[ScanLayout]) -> None:
    """Refuse an output folder in which a result would replace a scan, or another scan's result.

    Args:
        scans: of the run.
        layouts: of everything that is written for each of them.

    Raises:
        UserError: naming the first such scan.
    """
    taken: dict[str, str] = {}
    images = [scan_files(scan, ("image",))[0] for scan in scans]
    originals = {os.path.realpath(image) for image in images}
    for path, layout in itertools.product(images, layouts):
        result = layout.filename(path)
        if os.path.realpath(result) in originals:
            raise UserError(f"{path}: its result would overwrite a scan ({result}). Give another --output_dir.")
        if taken.setdefault(result, path) != path:
            raise UserError(
                f"{path}: its result would overwrite that of {taken[result]} ({result}): rename one, or leave it out."
            )
