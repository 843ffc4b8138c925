"""Labelled scans for fine-tuning: pairs of image and label, their classes, and who trains, validates and tests.

Taken are a Medical Segmentation Decathlon folder, ``imagesTr``/``labelsTr`` or ``images``/``labels`` with equal names,
and a data list. Whatever was decided (the seeded split, the label subset) can be written down and handed back as a
split file.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..base.classes import Classes, classes_of, ignored_value, label_count
from ..base.errors import UserError
from ..base.files import read_json, write_json
from .find import existing_or_told, note_links, pair_folders, pairs_by_name, present, refuse_namesakes
from .fingerprint import records_hash
from .lists import SECTION_NAMES, data_list_sections, fitting_split, is_decathlon, select_cases
from .names import SUFFIXES, CaseNames, Scan, Sections, case_ids, files_of, scan_files, tell_left_out

logger = logging.getLogger(__name__)


_READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")  # nnU-Net's, of volumes: read alike here
_SECTION_FOLDERS = {**SECTION_NAMES, "imagestr": "train", "imagesva": "validation", "imagests": "test"}
_NNUNET_SPLIT = "splits_final.json"
_SPLIT_STREAM, _SUBSET_STREAM = 0x5B17, 0x5B5E  # two draws of one seed must not be the same draw


@dataclass
class LabelledData:
    """Labelled scans by use, and their classes.

    Attributes:
        class_names: of the classes; index 0 is ``background``.
        training, validation, test: scans ``{"image": ..., "label": ...}``; ``test`` may be empty.
        origin: how the sections came about, in words.
        case_names: what cases are called, told from all that the data hold, whatever is used of them.
        ignore: the label value of voxels that were not annotated; None where all were.
        unlabelled: images whose labels are not there, or are left out by `num_labels`; none of another section.
    """

    class_names: list[str]
    training: list[Scan]
    validation: list[Scan]
    test: list[Scan] = field(default_factory=list)
    origin: str = ""
    case_names: CaseNames = field(default_factory=CaseNames, compare=False)
    ignore: int | None = None
    unlabelled: list[Scan] = field(default_factory=list, compare=False)

    @property
    def sections(self) -> Sections:
        """The scans under the names that a split file uses."""
        return {"train": self.training, "validation": self.validation, "test": self.test}

    @property
    def records_hash(self) -> str:
        """SHA-256 over section, names and sizes of all files."""
        return records_hash(self.sections)

    def or_given(self, training: list[Scan], validation: list[Scan]) -> Self:
        """The same, or the scans that a consumer of the config, such as MONAI Label, put in their place."""
        if [training, validation] == [self.training, self.validation]:
            return self
        names = CaseNames([*training, *validation])
        return replace(self, training=training, validation=validation, test=[], origin="given", case_names=names)

    def record(self) -> dict[str, Any]:
        """What a run writes down: classes, case ids by section, origin and hash; usable again as a split file."""
        cases = {name: [self.case_names.id(scan) for scan in part] for name, part in self.sections.items()}
        return {**cases, "class_names": self.class_names, "origin": self.origin, "records_hash": self.records_hash}

    def write_split(self, path: str | Path) -> None:
        """Write `record` as JSON; the file serves as ``data_split`` of a later run."""
        write_json(Path(path), self.record())

    def summary(self) -> str:
        """One line for the log."""
        counts = ", ".join(f"{len(part)} {name}" for name, part in self.sections.items())
        names = ", ".join(self.class_names[:8]) + (", ..." if len(self.class_names) > 8 else "")
        return f"{counts} ({self.origin}); {len(self.class_names)} classes: {names}"


def find_labelled(
    dataset_dir: str | Path,
    class_names: Any = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    data_split: str | Path | None = None,
    num_labels: int | None = None,
    in_channels: int = 1,
) -> LabelledData:
    """Labelled scans for training, validation and test, with their classes.

    Where ``dataset_dir`` does not exist there is none, and the log says so: see `require_scans`.

    Args:
        dataset_dir: a Medical Segmentation Decathlon folder, a folder with ``imagesTr``/``labelsTr`` or
            ``images``/``labels`` (equal names, or images ``case_0000`` beside a label ``case``), or a data list.
        class_names: see `classes_of`; needed where no ``dataset.json`` names the labels, and wins over it.
        val_fraction: share of the training scans drawn for validation where neither the list nor the split has any.
        seed: of that draw and of the label subset.
        data_split: JSON with case ids under ``train``, ``validation``, ``test``; cases in none of them are not used.
        num_labels: train on that many scans only; the subset of 8 contains that of 4 with the same seed.
        in_channels: channels of an image.

    Raises:
        UserError: when the folder has none of these forms, no pair is complete, or the classes are not known.
    """
    path = existing_or_told(dataset_dir)
    if path is None:
        return LabelledData([] if class_names is None else classes_of(class_names).names, [], [], origin="no data")
    sections, unlabelled = _labelled_sections(path, in_channels)
    classes = classes_of_data(path, class_names)
    if not any(sections.values()):
        raise UserError(f"{path}: no image has a label: fine-tuning needs pairs of equal names, or a data-list JSON.")
    origin = "sections of the data"
    everything = [scan for part in sections.values() for scan in part]
    if data_split is not None:
        split = fitting_split(data_split, path, everything)
        sections = {name: select_cases(everything, cases, str(data_split)) for name, cases in split.items() if cases}
        judged = {case for name in ("validation", "test") for case in split.get(name, [])}
        unlabelled = [scan for scan in unlabelled if not judged.intersection(case_ids(scan))]
        origin = f"split file {Path(data_split).name}"
    elif path.is_dir() and (path / _NNUNET_SPLIT).is_file():
        logger.info("%s: %s in it is not used: `--data_split %s` takes its first fold", path, *2 * (_NNUNET_SPLIT,))
    training, validation = sections.get("train", []), sections.get("validation", [])
    if not training:
        raise UserError(f"{path}: no labelled scan to train on ({origin}): add some under training.")
    if not validation and val_fraction > 0:
        training, validation = _seeded_split(training, val_fraction, seed)
        origin += f", validation drawn with val_fraction={val_fraction}, seed={seed}"
    if num_labels is not None:
        all_training, training = training, label_subset(training, num_labels, seed)
        drawn = set(map(id, training))
        unlabelled += [{"image": scan["image"]} for scan in all_training if id(scan) not in drawn]
        origin += f", {num_labels} training labels drawn with seed={seed}"
    names, test = CaseNames(everything), sections.get("test", [])
    data = LabelledData(classes.names, training, validation, test, origin, names, classes.ignore, unlabelled)
    logger.info("%s: %s", path, data.summary())
    if path.is_dir():
        note_links([scan for part in data.sections.values() for scan in part], path)
    return data


def label_subset(scans: Sequence[Scan], num_labels: int, seed: int) -> list[Scan]:
    """The first ``num_labels`` of one seeded order of the scans, so that subsets of one seed are nested.

    Raises:
        UserError: when there are fewer scans.
    """
    if not 1 <= num_labels <= len(scans):
        raise UserError(
            f"num_labels is {num_labels}, but there are {len(scans)} labelled scans to train on: give a number "
            f"from 1 to {len(scans)}."
        )
    ordered = sorted(scans, key=scan_files)
    return [ordered[position] for position in _order(len(scans), seed, _SUBSET_STREAM)[:num_labels]]


def _order(count: int, seed: int, stream: int) -> list[int]:
    return np.random.default_rng([seed, stream]).permutation(count).tolist()


def _seeded_split(scans: Sequence[Scan], fraction: float, seed: int) -> tuple[list[Scan], list[Scan]]:
    """Training and validation scans, each patient's together; one scan alone serves as both, which the log says."""
    if not 0 < fraction < 1:
        raise UserError(f"val_fraction is {fraction}: give a share between 0 and 1, for instance 0.2.")
    ordered = sorted(scans, key=scan_files)
    images = [scan_files(scan)[0] for scan in ordered]  # several labels may be of one
    subjects = [re.match(r"sub-[^_.]+", Path(image).name) for image in images]  # as BIDS names a patient's scans
    owners = [subject[0] if subject else image for subject, image in zip(subjects, images, strict=True)]
    owners = owners if len(set(owners)) > 1 else images
    groups = list(dict.fromkeys(owners))
    if len(groups) == 1:
        logger.warning("only one labelled scan: it is trained on and validated on, so that validation shows no skill")
        return ordered, list(ordered)
    count = min(max(round(fraction * len(groups)), 1), len(groups) - 1)
    judged = {groups[position] for position in _order(len(groups), seed, _SPLIT_STREAM)[:count]}
    owned = list(zip(ordered, owners, strict=True))
    return [scan for scan, owner in owned if owner not in judged], [scan for scan, owner in owned if owner in judged]


def _labelled_sections(path: Path, in_channels: int) -> tuple[Sections, list[Scan]]:
    """Labelled scans by section, and images without a label."""
    if path.is_file() and path.suffix != ".json":
        raise UserError(f"{path}: is one file: give a folder of pairs, or a data-list JSON.")
    source, content = said_of_data(path)
    _refuse_unread(source, content, in_channels)
    if path.is_file():
        sections = data_list_sections(path)
    elif is_decathlon(path):
        sections = present(data_list_sections(source, within=True), source)
    else:
        source, sections = path, {}
        for scan in _images_in_pairs(path, in_channels, file_ending(content)):
            sections.setdefault(section_of_path(Path(scan_files(scan)[0]), path), []).append(scan)
    everything = [scan for part in sections.values() for scan in part]
    unlabelled = [scan for scan in everything if "label" not in scan]
    files, images = ([scan_files(scan)[0] for scan in scans] for scans in (unlabelled, everything))
    tell_left_out(source, files, "images without a label left out", images)
    return {name: [scan for scan in part if "label" in scan] for name, part in sections.items()}, unlabelled


def section_of_path(path: Path, root: Path) -> str:
    """The section that a file belongs to by the names of its folders (``imagesTs``, ``validation``); else train."""
    folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
    return next((_SECTION_FOLDERS[name] for name in folders if name in _SECTION_FOLDERS), "train")


def _images_in_pairs(folder: Path, in_channels: int, ending: str) -> list[Scan]:
    """The images of two folders, with their labels as far as there are any."""
    folders = pair_folders(folder)
    if not folders:
        raise UserError(
            f"{folder}: has neither dataset.json, nor imagesTr and labelsTr, nor images and labels: rename the "
            'folders, or give the path of a data list: {"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}.'
        )
    (images, labels), *passed_over = folders
    for pair in passed_over:
        logger.warning("%s: %s and %s are not used, for %s and %s are there", folder, *pair, images, labels)
    found = pairs_by_name(folder / images, folder / labels, in_channels, ending)
    refuse_namesakes(found.namesakes)
    tell_left_out(folder, found.others, f"files that do not end in {ending} (file_ending) left out")
    tell_left_out(folder, found.lonely_labels, "labels without an image left out", files_of(found.pairs))
    return [*found.pairs, *found.lonely_images]


# what dataset.json, or a data list, says of the data


def said_of_data(path: Path) -> tuple[Path, dict[str, Any]]:
    """The data list, or the folder's ``dataset.json``, and its content: nothing where there is none."""
    source = path if path.is_file() else path / "dataset.json"
    content = read_json(source) if source.is_file() and source.suffix == ".json" else {}
    return source, content if isinstance(content, dict) else {}


def classes_of_data(path: Path, class_names: Any = None) -> Classes:
    """The classes as asked for, else as the data say, who alone say which label value is ignored.

    Raises:
        UserError: when nothing names them, or the names or values are odd.
    """
    source, content = said_of_data(path)
    labels = content.get("labels")
    if class_names is None and not labels:
        raise UserError(
            f'{path}: nothing names the classes (no dataset.json with "labels"): add '
            "`--class_names \"['liver','tumour']\"`, in the order of the label values 1, 2, ..."
        )
    if class_names is None:
        return classes_of(labels, f"{source}, labels", content.get("regions_class_order"))
    asked, ignore = classes_of(class_names), ignored_value(labels)
    free = ignore is not None and ignore not in range(label_count(asked.names, asked.regions))
    return replace(asked, ignore=ignore) if free and asked.ignore is None else asked


def file_ending(content: Mapping[str, Any]) -> str:
    """``file_ending`` of nnU-Net's ``dataset.json``, "" where it says none: no other file belongs to the data."""
    return str(content.get("file_ending") or "")


def _refuse_unread(source: Path, content: Mapping[str, Any], in_channels: int) -> None:
    """Refuse a ``dataset.json`` that asks for what is not done here, by the name of its entry."""
    ending, reader = file_ending(content), content.get("overwrite_image_reader_writer")
    if ending and ending not in SUFFIXES:
        raise UserError(
            f"{source}: file_ending {ending!r} is not read: convert the files to .nii.gz, and say so there."
        )
    if reader and reader not in _READERS:
        raise UserError(
            f"{source}: overwrite_image_reader_writer {reader!r} is not known: files are read by their suffix, "
            f"{', '.join(SUFFIXES)}; convert them, and take the entry out."
        )
    for key in ("channel_names", "modality"):
        named = content.get(key)
        if isinstance(named, dict | list) and len(named) > in_channels:
            told = ", ".join(map(str, named.values() if isinstance(named, dict) else named))
            raise UserError(
                f"{source}: {key} lists {len(named)} channels ({told}), but in_channels is {in_channels}: set "
                f"`--in_channels {len(named)}`."
            )
