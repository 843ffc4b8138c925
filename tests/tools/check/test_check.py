"""``desd check``: every fault is found and named, and good folders pass."""

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import nibabel
import numpy as np
import pytest
from scan_files import write_json, write_nifti

from desd_components.base.errors import UserError
from desd_components.scans.find import scan_paths
from desd_tools.__main__ import main
from desd_tools.check.check import check

pytestmark = pytest.mark.usefixtures("known_speed")
STRAIGHT = np.diag([1.0, 1.2, 2.0, 1.0])
SHAPE = (12, 14, 10)


def scan(folder: Path, name: str, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Path:
    voxels = np.random.default_rng(seed).gamma(2.0, 100.0, size=shape).astype(np.float32)
    return write_nifti(folder / "imagesTr" / f"{name}.nii.gz", voxels, STRAIGHT)


def body(seed: int = 0, kind: type = np.uint8) -> np.ndarray:
    voxels = np.zeros(SHAPE, kind)
    voxels[2 : 6 + seed, 3:9, 2:7] = 1
    voxels[3:5, 4:6, 3:5] = 2
    return voxels


def label(folder: Path, name: str, voxels: np.ndarray, affine: np.ndarray = STRAIGHT) -> Path:
    return write_nifti(folder / "labelsTr" / f"{name}.nii.gz", voxels, affine)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Three labelled MR-like scans."""
    folder = tmp_path / "data"
    for number in range(3):
        scan(folder, f"case_{number}", seed=number)
        label(folder, f"case_{number}", body(number))
    write_json(folder / "dataset.json", {"labels": {"0": "background", "1": "organ", "2": "tumour"}})
    return folder


def checked(folder: Path, *flags: str) -> tuple[int, dict]:
    """Exit code, and what the JSON says."""
    output = folder.parent / "check.json"
    code = main(["check", str(folder), f"--output={output}", *flags])
    return code, json.loads(output.read_text()) if output.exists() else {}


def faults_of(folder: Path, expected: int) -> list[dict]:
    code, said = checked(folder)
    assert code == expected
    return said["faults"]


def test_a_good_folder_has_neither_faults_nor_remarks(good, capsys):
    code, said = checked(good)
    assert (code, said["faults"], said["remarks"]) == (0, [], [])
    assert "3 images and 3 labels read; 0 with faults (none); 0 remarks" in capsys.readouterr().out


def test_many_faults_that_are_alike_share_a_row_and_the_json_names_each(good, capsys):
    for number in range(37):
        scan(good, f"lonely_{number:02d}", seed=10 + number)  # no copies of the labelled ones
    code, said = checked(good)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault | ")]
    first = ", ".join(f"imagesTr/lonely_{number:02d}.nii.gz" for number in range(3))
    assert (code, len(said["faults"])) == (1, 37)
    assert rows == [
        f"fault | 37 files: {first} and 34 more | has no label, while others have | "
        "add a label of its name, or move it to a folder of unlabelled scans"
    ]


def test_nothing_is_written_that_was_not_asked_for(good, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["check", str(good)]) == 0
    assert list((tmp_path / "here").iterdir()) == []


def first_image(folder: Path) -> Path:
    return folder / "imagesTr" / "case_0.nii.gz"


def not_nifti(folder: Path) -> None:
    first_image(folder).write_bytes(gzip.compress(b"not a volume" * 50))


def truncated(folder: Path) -> None:
    first_image(folder).write_bytes(first_image(folder).read_bytes()[:-2000])


def changed(value: float) -> np.ndarray:
    voxels = np.random.default_rng(9).gamma(2.0, 100.0, size=SHAPE).astype(np.float32)
    voxels[1, 2, 3] = value
    return voxels


def with_header(change: Callable[[nibabel.Nifti1Header], None]) -> Callable[[Path], None]:
    """The first image again, its header changed and nothing set right by nibabel."""

    def spoil(folder: Path) -> None:
        image = nibabel.load(first_image(folder))
        header, voxels = image.header.copy(), np.asanyarray(image.dataobj)
        change(header)
        (folder / "labelsTr" / "case_0.nii.gz").write_bytes(b"")  # its grid would differ, too
        nibabel.save(nibabel.Nifti1Image(voxels, None, header), first_image(folder))

    return spoil


def zero_spacing(folder: Path) -> None:
    """Past nibabel, which mends such a header when it writes or reads it."""
    content = bytearray(gzip.decompress(first_image(folder).read_bytes()))
    content[88:92] = bytes(4)  # pixdim[3], a float
    first_image(folder).write_bytes(gzip.compress(bytes(content)))


def metres(header: nibabel.Nifti1Header) -> None:
    affine = np.diag([0.001, 0.001, 0.002, 1.0])
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)


def two_affines(header: nibabel.Nifti1Header) -> None:
    header.set_qform(np.diag([-1.0, 1.2, 2.0, 1.0]), 1)


def thin(folder: Path) -> None:
    scan(folder, "case_0", shape=(12, 14, 2))
    label(folder, "case_0", body()[:, :, 2:4])


def copied_image(folder: Path) -> None:
    shutil.copy(first_image(folder), folder / "imagesTr" / "case_1.nii.gz")


def same_voxels(folder: Path) -> None:
    image = nibabel.load(first_image(folder))
    doubled = nibabel.Nifti1Image(np.asanyarray(image.dataobj).astype(np.float64), image.affine)
    nibabel.save(doubled, folder / "imagesTr" / "case_1.nii.gz")


def again_in_the_test(folder: Path) -> None:
    (folder / "imagesTs").mkdir()
    shutil.copy(first_image(folder), folder / "imagesTs" / "new.nii.gz")


def label_of(voxels: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: label(folder, "case_0", voxels) and None


def one_class_only(folder: Path) -> None:
    for number in range(3):
        label(folder, f"case_{number}", np.minimum(body(number), 1))


def nothing_labelled(folder: Path) -> None:
    for number in range(3):
        label(folder, f"case_{number}", body(number) * 0)


FAULTS = {
    "unreadable": (not_nifti, "case_0", "cannot be read as NIfTI"),
    "truncated": (truncated, "case_0", "is truncated or damaged"),
    "zero spacing": (zero_spacing, "case_0", "says its voxels are 1 x 1.2 x 0 mm"),
    "spacing in metres": (with_header(metres), "case_0", "says its voxels are 0.001 x 0.001 x 0.002 mm"),
    "two affines": (with_header(two_affines), "case_0", "its qform and its sform place a corner 22.00 mm apart"),
    "tiny": (thin, "case_0", "is only 2 voxels wide along an axis (12, 14, 2)"),
    "copied file": (copied_image, "case_1", "is byte for byte the same as"),
    "same voxels": (same_voxels, "case_1", "is voxel for voxel the same as"),
    "leak": (again_in_the_test, "new", "one case under test and train"),
    "no label": (lambda f: (f / "labelsTr" / "case_0.nii.gz").unlink(), "case_0", "has no label, while others have"),
    "no image": (lambda f: first_image(f).unlink(), "case_0", "is a label without an image"),
    "unknown value": (
        label_of(np.where(body() == 2, 7, body())),
        "case_0",
        "holds the label values [7], but the classes are 0 to 2",
    ),
    "empty labels": (nothing_labelled, "data", "class 1 (organ) occurs in none of 3 labels"),
    "missing class": (one_class_only, "data", "class 2 (tumour) occurs in none of 3 labels"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_named_and_given_a_remedy(name, good, capsys):
    spoil, file, what = FAULTS[name]
    spoil(good)
    code, said = checked(good)
    assert code == 1
    [fault] = [fault for fault in said["faults"] if what in fault["what"]]
    assert file in Path(fault["file"]).name and len(fault["remedy"]) > 5
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault | ") and what in line]
    assert len(rows) == 1 and rows[0].count(" | ") == 3


def tilted(folder: Path) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    write_nifti(first_image(folder), changed(1.0), affine)
    label(folder, "case_0", body(), affine)


def no_affine(folder: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(changed(1.0), None), first_image(folder))
    nibabel.save(nibabel.Nifti1Image(body(), None), folder / "labelsTr" / "case_0.nii.gz")


REMARKS = {
    "no affine": (no_affine, "says nowhere how it lies in the patient (sform and qform codes are 0)"),
    "oblique": (tilted, "is oblique: an axis leans by 17 degrees"),
    "whole numbers as float": (label_of(body(kind=np.float32)), "holds whole numbers stored as float32"),
    "empty label": (label_of(np.zeros(SHAPE, np.uint8)), "is an empty label"),  # lesions are not in every scan
    "left by a system": (lambda f: (f / "imagesTr" / ".DS_Store").write_bytes(b"x"), "left by an operating system"),
}


@pytest.mark.parametrize("name", REMARKS)
def test_a_remark_is_no_fault(name, good):
    spoil, what = REMARKS[name]
    spoil(good)
    code, said = checked(good)
    assert (code, said["faults"]) == (0, [])
    assert any(what in remark["what"] for remark in said["remarks"])


def ct(folder: Path, count: int = 3) -> None:
    """CT-like: air, fat, tissue and some bone."""
    for number in range(count):
        tissue = np.random.default_rng(number).choice([-1000, -100, 40, 300], size=SHAPE).astype(np.int16)
        write_nifti(folder / f"ct_{number}.nii.gz", tissue, STRAIGHT)


@pytest.mark.parametrize(
    ("voxels", "what"),
    [
        (changed(1.0), "it has no air or fat"),
        (changed(1.0) / 1000, "as if normalised"),
        (changed(60_000.0), "its values reach from"),
        (np.random.default_rng(0).choice(np.int16([24, 924, 1064, 1324]), size=SHAPE), "were 1024 added to them?"),
    ],
    ids=["MR", "normalised", "out of range", "offset"],
)
def test_a_scan_among_ct_that_cannot_be_in_hu_is_a_fault(tmp_path, voxels, what):
    ct(tmp_path / "data")
    write_nifti(tmp_path / "data" / "odd.nii.gz", voxels, STRAIGHT)
    code, said = checked(tmp_path / "data")
    assert code == 1
    [fault] = said["faults"]
    assert "odd" in fault["file"] and "cannot be in Hounsfield units" in fault["what"] and what in fault["what"]


def test_ct_passes_unless_the_window_shows_nothing_of_it_and_others_unless_hu_is_asked_for(tmp_path, good):
    ct(tmp_path / "ct")
    code, said = checked(tmp_path / "ct")
    assert (code, said["intensity"], said["faults"]) == (0, "hu", [])
    code, said = checked(tmp_path / "ct", "--hu-window=[2000,3000]")
    assert code == 1 and len(said["faults"]) == 3
    assert "lies outside the window [2000, 3000]" in said["faults"][0]["what"]
    code, said = checked(good, "--intensity=hu")
    assert code == 1 and [fault["kind"] for fault in said["faults"]] == ["intensity"] * 3


def test_what_is_trained_and_tested_on_is_a_fault(good, tmp_path):
    entry = {"image": "data/imagesTr/case_0.nii.gz", "label": "data/labelsTr/case_0.nii.gz"}
    listed = write_json(tmp_path / "list.json", {"labels": {"1": "a", "2": "b"}, "training": [entry], "test": [entry]})
    code, said = checked(listed)
    assert code == 1 and "is listed under test and train" in said["faults"][0]["what"]
    copied_image(good)
    split = write_json(tmp_path / "split.json", {"train": ["case_0"], "validation": ["case_2"], "test": ["case_1"]})
    code, said = checked(good, f"--data-split={split}")
    assert code == 1 and "one case under test and train" in said["faults"][0]["what"]


def test_a_split_whose_ids_do_not_name_one_scan_each_has_a_fault_for_each_such_id(tmp_path):
    folder = tmp_path / "data"
    for number in range(3):
        voxels = np.random.default_rng(number).gamma(2.0, 100.0, size=SHAPE).astype(np.float32)
        write_nifti(folder / f"case_{number}" / "imaging.nii.gz", voxels, STRAIGHT)
    sections = {"train": ["imaging", "case_0", "case_1"], "test": ["case_1/imaging", "case_2"]}
    code, said = checked(folder, f"--data-split={write_json(tmp_path / 'split.json', sections)}")
    assert code == 1 and [fault["what"] for fault in said["faults"]] == [
        "'imaging' fits 3 scans (case_0/imaging.nii.gz, case_1/imaging.nii.gz)",
        "'case_1' and 'case_1/imaging' are one scan",
    ]


def test_several_faults_of_one_pair_are_all_found(good):
    truncated(good)
    label_of(np.where(body() == 2, 7, body()))(good)
    kinds = {fault["kind"] for fault in checked(good)[1]["faults"]}
    assert {"damaged", "label values"} <= kinds


def test_each_file_is_read_once(good, monkeypatch):
    from nibabel.arrayproxy import ArrayProxy

    reads: list[str] = []
    whole = ArrayProxy.__array__

    def counted(self: ArrayProxy, *args: object, **kwargs: object) -> np.ndarray:
        reads.append(str(self.file_like))
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(ArrayProxy, "__array__", counted)
    checked(good)
    assert len(reads) == len(set(reads)) == 6


def nifti_header(shape: tuple[int, int, int]) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    content = bytearray(header.binaryblock)
    struct.pack_into("<4h", content, 40, 3, *shape)
    return bytes(content) + bytes(4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(30000, 30000, 30000), (-5, 16, 16), (0, 16, 16)])
def test_a_header_of_impossible_size_is_a_fault_of_its_file_alone(good, shape, suffix):
    content = nifti_header(shape) + bytes(100)
    (good / "imagesTr" / f"odd{suffix}").write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    faults = faults_of(good, expected=1)
    assert "its header says" in next(fault["what"] for fault in faults if fault["file"].endswith(f"odd{suffix}"))


@pytest.mark.parametrize("name", ["pipe.nii.gz", "pipe.dcm", "pipe"])
def test_a_named_pipe_is_never_waited_for(good, name):
    os.mkfifo(good / "imagesTr" / name)
    faults = faults_of(good, expected=int(name == "pipe.nii.gz"))
    assert all("a pipe or a device" in fault["what"] or "label" in fault["what"] for fault in faults)


def test_a_suffix_in_capital_letters_is_told(good, caplog):
    (good / "imagesTr" / "case_0.nii.gz").rename(good / "imagesTr" / "case_0.NII.GZ")
    faults = faults_of(good, expected=1)
    assert any(fault["kind"] == "suffix" and fault["file"].endswith("case_0.NII.GZ") for fault in faults)
    scan_paths(good)
    assert "1 files left out, for its suffix is not in small letters (rename it)" in caplog.text


def test_a_name_with_a_line_break_stays_one_row(good, capsys):
    (good / "imagesTr" / "a\nb.nii.gz").write_bytes(b"")
    faults_of(good, expected=1)
    assert "imagesTr/a\\nb.nii.gz | " in capsys.readouterr().out


ODD_SETTINGS = [{"hu_window": 5}, {"hu_window": [5, 1]}, {"in_channels": 0}, {"num_workers": "two"}, {"minutes": -1}]


@pytest.mark.parametrize("setting", ODD_SETTINGS, ids=str)
def test_odd_settings_are_refused_by_name(good, setting):
    with pytest.raises(UserError, match=f"^--{next(iter(setting))}[ =]"):
        check(str(good), **setting)


def test_a_place_that_takes_no_result_is_refused_before_anything_is_read(good, monkeypatch):
    monkeypatch.setattr("desd_tools.check.check.survey", None)
    with pytest.raises(UserError, match="cannot be written to"):
        check(str(good), output=str(good / "dataset.json" / "check.json"))


def test_ctrl_c_ends_a_command_with_one_line_and_130(monkeypatch, capsys):
    monkeypatch.setattr("desd_tools.check.check.look", Mock(side_effect=KeyboardInterrupt))
    assert main(["check", "folder"]) == 130
    assert capsys.readouterr().err == "stopped by SIGINT.\n"


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_a_check_that_cannot_be_run_ends_with_2(tmp_path, folder, capsys):
    (tmp_path / "empty").mkdir()
    assert checked(tmp_path / folder)[0] == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_real_bad_files_are_found(real_data, tmp_path, capsys):
    output = tmp_path / "check.json"
    code = main(["check", str(real_data / "dirty"), f"--output={output}", "--class-names=['anterior','posterior']"])
    faults = {Path(fault["file"]).name: fault["what"] for fault in json.loads(output.read_text())["faults"]}
    assert code == 1
    expected = {
        "hippocampus_118.nii.gz": "has no label",
        "hippocampus_010.nii.gz": "is a label without an image",
        "hippocampus_281.nii.gz": "is a label without an image",
        "git_lfs_pointer_image.nii.gz": "git-LFS pointer",
        "git_lfs_pointer_label.nii.gz": "git-LFS pointer",
        "rgb_dtype_not_a_scalar_volume.nii.gz": "RGB voxels",
        "label_value_5_only_where_1_expected.nii.gz": "label values [5]",
    }
    assert faults.keys() == expected.keys()
    assert all(words in faults[name] for name, words in expected.items())
    assert ".DS_Store | is no scan" in capsys.readouterr().out


def test_real_folders_have_no_fault_and_ct_is_taken_for_ct(real_data, tmp_path):
    hearts, ct = real_data / "Task04_Hippocampus", real_data / "ct_tcia_2p5mm"
    output = tmp_path / "check.json"
    for folder, flags, found in (
        (hearts, [f"--data-split={hearts / 'splits.json'}"], ("zscore", 400)),
        (ct, [], ("hu", 9)),
    ):
        assert main(["check", str(folder), f"--output={output}", *flags]) == 0
        said = json.loads(output.read_text())
        assert said["faults"] == [] and (said["intensity"], said["files"]) == found


def test_a_label_map_by_another_name_is_remarked_upon(tmp_path):
    folder = tmp_path / "data"
    for number in range(3):
        scan(folder, f"p{number}", seed=number)
    write_nifti(folder / "imagesTr" / "consensus.nii.gz", body(), STRAIGHT)
    code, said = checked(folder)
    assert code == 0
    assert [(Path(remark["file"]).name, remark["kind"]) for remark in said["remarks"]] == [
        ("consensus.nii.gz", "label map")
    ]


def test_a_value_to_ignore_is_no_fault(good):
    label(good, "case_0", np.where(body() == 2, 7, body()).astype(np.uint8))
    write_json(good / "dataset.json", {"labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 7}})
    assert faults_of(good, 0) == []
