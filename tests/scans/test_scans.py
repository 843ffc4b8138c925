import errno
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scan_files import oblique_affine, write_json, write_nifti, write_scan

from desd_components import UserError, data_fingerprint, find_labelled, find_scans, records_hash
from desd_components.scans.label_maps import is_mask
from desd_components.scans.lists import read_split
from desd_tools.check.folder import look


def names(scans: list[dict]) -> list[str]:
    return [Path(scan["image"]).name for scan in scans]


def test_a_folder_is_searched_recursively_and_gives_sorted_records_and_nothing_hidden(tmp_path):
    wanted = ["a/deep/er/one.nii", "b/two.nii.gz", "c.nii.gz"]
    for name in (*reversed(wanted), ".hidden/d.nii.gz"):
        write_scan(tmp_path / name)
    for name in ("notes.txt", "._c.nii.gz"):
        (tmp_path / name).write_text("not a scan")
    assert [Path(scan["image"]).relative_to(tmp_path).as_posix() for scan in find_scans(tmp_path)] == wanted


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path, monkeypatch, caplog):
    write_scan(tmp_path / "a.nii.gz"), write_scan(tmp_path / "closed" / "b.nii.gz")
    look_into = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look_into(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(find_scans(tmp_path)) == ["a.nii.gz"]
    assert f"{tmp_path / 'closed'}: cannot be looked into (Permission denied)" in caplog.text


MASKS = """
    labelsTr/a.nii.gz case/masks/a.nii.gz segmentations/a.nii.gz a_seg.nii.gz a_seg-manual.nii.gz
    a_gmseg_manual.nii.gz a_mask.nii.gz a_label.nii.gz a_seg117.nii.gz a_seg117_fast.nii.gz
    case_0/segmentation.nii.gz sub-01_dseg.nii.gz sub-01_label-GM_probseg.nii.gz sub-01_desc-brain_mask.nii.gz
    sub-01_ses-0001_msk.nii.gz sub-01_lesion-msk.nii.gz Segmentation.nii.gz ct.seg.nrrd CT-label.nrrd
    aparc+aseg.nii.gz s0001/segmentations/liver.nii.gz labelsVa/amos_0001.nii.gz BraTS-GLI-00000-000-seg.nii.gz
    case_prob.nii.gz lesion_masks/sub-01_lesion.nii.gz ct_segmentations/liver.nii.gz predictionsTs/a.nii.gz
    LabelMapVolume.nii.gz SegmentationLabelmap.nii.gz ManualSegmentation_1.nii.gz BrainMask.nii.gz CTSeg.nii.gz
    sub-01_T1w_label-lesion_roi.nii.gz
    wmparc.nii.gz t1_brain_pveseg.nii.gz truth.nii.gz kidney_instance-1_annotation-1.nii.gz x_GTV1.nii.gz
    imagesTs_pred/a.nii.gz nnunet_predictions/a.nii.gz lungmask.nii.gz a_delineation.nii.gz a_contours.nii.gz
"""
IMAGES = """
    imagesTr/a.nii.gz t2s.nii.gz ct_cropped.nii.gz segmented_flow.nii.gz unmasked.nii.gz sub-01_asl.nii.gz
    derivatives/fmriprep/sub-01_desc-preproc_T1w.nii.gz heart_segmentation/imagesTr/a.nii.gz T1Masked.nii.gz
    heart_roi.nii.gz lesion_012_ct.nii.gz
"""


@pytest.mark.parametrize("name", MASKS.split())
def test_labels_and_masks_are_recognised_by_folder_or_name(name):
    assert is_mask(Path("/data") / name, Path("/data"))


@pytest.mark.parametrize("name", IMAGES.split())
def test_scans_are_not_taken_for_masks(name):
    assert not is_mask(Path("/labels") / name, Path("/labels"))  # what a folder above the data is called says nothing


def test_volumes_of_formats_that_are_not_read_are_told(tmp_path, caplog):
    write_scan(tmp_path / "a.nii.gz")
    for name in ("b.img", "b.hdr", "c.mgz", "d.nii.bz2", "e.mif.gz", "f+orig.BRIK"):
        (tmp_path / name).write_bytes(b"voxels")
    assert names(find_scans(tmp_path)) == ["a.nii.gz"]
    assert (
        "5 files left out, for its format is not read (convert it to NIfTI): b.img, c.mgz, d.nii.bz2 and 2 more"
        in caplog.text
    )
    found = [Path(finding.file).name for finding in look(tmp_path).findings if finding.kind == "format"]
    assert found == ["b.img", "c.mgz", "d.nii.bz2", "e.mif.gz", "f+orig.BRIK"]


def decathlon(folder: Path) -> Path:
    for name in ("a", "b"):
        write_scan(folder / "imagesTr" / f"{name}.nii.gz")
        write_scan(folder / "labelsTr" / f"{name}.nii.gz")
    write_scan(folder / "imagesTs" / "t.nii.gz")
    entries = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in ("a", "b")]
    content = {"labels": {"0": "background"}, "training": entries, "test": ["./imagesTs/t.nii.gz"]}
    write_json(folder / "dataset.json", content)
    return folder


def test_a_decathlon_folder_gives_the_images_of_all_sections_that_are_there_and_no_labels(tmp_path, caplog):
    scans = find_scans(decathlon(tmp_path))
    assert names(scans) == ["a.nii.gz", "b.nii.gz", "t.nii.gz"]
    assert all(set(scan) == {"image"} for scan in scans)
    (tmp_path / "imagesTs" / "t.nii.gz").unlink()
    assert names(find_scans(tmp_path)) == ["a.nii.gz", "b.nii.gz"]
    assert "1 files that do not exist left out: t.nii.gz" in caplog.text


def test_a_data_list_names_its_scans_relative_to_itself_and_perhaps_a_file_per_channel(tmp_path):
    entries = [{"image": "x/a.nii.gz", "label": "x/l.nii.gz"}, {"image": ["x/t1.nii.gz", "x/t2.nii.gz"]}]
    path = write_json(tmp_path / "lists" / "mine.json", {"training": entries, "validation": [{"image": "b.nii.gz"}]})
    here = f"{tmp_path}/lists"
    wanted = [f"{here}/b.nii.gz", f"{here}/x/a.nii.gz", [f"{here}/x/t1.nii.gz", f"{here}/x/t2.nii.gz"]]
    assert find_scans(path) == [{"image": image} for image in wanted]


def test_a_list_that_windows_wrote_is_read_and_leads_no_further(tmp_path):
    decathlon(tmp_path / "data")
    entries = [{"image": f".\\imagesTr\\{name}.nii.gz", "label": f"labelsTr\\{name}.nii.gz"} for name in ("a", "b")]
    write_json(tmp_path / "data" / "dataset.json", {"labels": {"1": "x", "2": "y"}, "training": entries})
    assert names(find_scans(tmp_path / "data")) == ["a.nii.gz", "b.nii.gz"]
    assert len(find_labelled(tmp_path / "data", val_fraction=0).training) == 2
    write_json(tmp_path / "data" / "dataset.json", {"training": ["..\\secret.nii.gz"]})
    with pytest.raises(
        UserError, match=r"'\.\./secret.nii.gz' leads out of its folder. Write it relative to that folder"
    ):
        find_scans(tmp_path / "data")


def test_a_list_of_files_that_are_elsewhere_is_refused_for_that_reason(tmp_path):
    decathlon(tmp_path).joinpath("imagesTr").rename(tmp_path / "imagesTrain")
    (tmp_path / "imagesTs").rename(tmp_path / "imagesTest")
    for search in (find_scans, lambda folder: find_labelled(folder, ["x", "y"])):
        with pytest.raises(UserError, match=r"all files exist \(missing first: .*imagesTr/a.nii.gz\): is the folder"):
            search(tmp_path)


def test_a_scan_that_is_a_link_keeps_its_own_name(tmp_path):
    write_scan(tmp_path / "store" / "4f2a.nii.gz").rename(tmp_path / "store" / "4f2a")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").symlink_to(tmp_path / "store" / "4f2a")
    path = write_json(tmp_path / "list.json", {"training": ["scans/a.nii.gz"]})
    assert names(find_scans(path)) == names(find_scans(tmp_path / "scans")) == ["a.nii.gz"]


def test_numbered_files_are_the_channels_of_one_image(tmp_path):
    for name in ("p_0000.nii.gz", "p_0001.nii.gz", "q_0000.nii.gz", "q_0001.nii.gz"):
        write_scan(tmp_path / name)
    scans = find_scans(tmp_path, in_channels=2)
    assert [names([{"image": file} for file in scan["image"]]) for scan in scans] == [
        ["p_0000.nii.gz", "p_0001.nii.gz"],
        ["q_0000.nii.gz", "q_0001.nii.gz"],
    ]


def test_a_split_file_keeps_the_test_cases_away_from_pretraining(tmp_path):
    write_json(tmp_path / "splits.json", {"note": "text", "train": ["c", "a"], "validation": ["b"], "test": ["d"]})
    for name in "abcde":
        write_scan(tmp_path / f"{name}.nii.gz")
    assert names(find_scans(tmp_path, data_split="splits.json")) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert names(find_scans(tmp_path, data_split=tmp_path / "splits.json", sections=["test"])) == ["d.nii.gz"]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": ["p1/ct"], "test": ["p1/ct.nii.gz"]}, r"1 cases are listed twice \(first: p1/ct\)"),
        ({"train": ["1", "2"]}, r"none of its 2 case ids \(first: '1'\) names a scan \(a scan is called 'p1/ct'\)"),
        ({"train": ["ct"]}, "'ct' fits 2 scans"),
        ({"train": ["p1/ct"], "test": ["p1"]}, "'p1/ct' and 'p1' are one scan: keep one of them"),
    ],
)
def test_a_split_whose_ids_do_not_name_one_scan_each_is_refused(tmp_path, split, words):
    for patient in ("p1", "p2"):
        write_scan(tmp_path / patient / "ct.nii.gz")
    write_json(tmp_path / "splits.json", split)
    with pytest.raises(UserError, match=words):
        find_scans(tmp_path, data_split="splits.json")
    write_json(tmp_path / "splits.json", {"train": ["p2"]})
    assert find_scans(tmp_path, data_split="splits.json") == [{"image": str(tmp_path / "p2" / "ct.nii.gz")}]


def test_a_split_of_as_many_cases_as_the_largest_data_sets_have_is_read_in_a_moment(tmp_path):
    cases = [f"case_{number}" for number in range(115_000)]
    path = write_json(tmp_path / "splits.json", {"train": cases, "test": ["a", "b.nii.gz"]})
    started = time.process_time()
    assert read_split(path, tmp_path) == {"train": cases, "test": ["a", "b"]}
    assert time.process_time() - started < 2


def test_scans_of_all_formats_are_found_side_by_side(tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    for name in ("b.nrrd", "c.mha", "d.mhd", "d.raw", "e_seg.nrrd"):
        (tmp_path / name).write_bytes(b"its name is enough here")
    dicom = pytest.importorskip("dicom_files")
    dicom.write_series(tmp_path / "f_seg", dicom.hounsfield(), oblique_affine())
    assert names(find_scans(tmp_path)) == ["a.nii.gz", "b.nrrd", "c.mha", "d.mhd", "f_seg"]


@pytest.mark.parametrize(
    ("name", "words"), [("slice.dcm", "no such file"), ("a_seg.nii", "all 1 files in it are labels or masks")]
)
def test_a_folder_without_a_scan_is_refused_with_what_it_holds(tmp_path, caplog, name, words):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=rf"no scan found \({words}.* DICOM series"):
        find_scans(tmp_path)
    assert ("1 files look like DICOM and cannot be read: slice.dcm" in caplog.text) is (name == "slice.dcm")


def test_without_pydicom_a_stray_dicom_file_does_not_stop_those_who_have_nifti(tmp_path, caplog, monkeypatch):
    write_scan(tmp_path / "a.nii.gz")
    dicom = pytest.importorskip("dicom_files")
    dicom.write_series(tmp_path / "series", dicom.hounsfield(), oblique_affine())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert names(find_scans(tmp_path)) == ["a.nii.gz"]
    assert "DICOM files are left out" in caplog.text and "pip install pydicom" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"classes": []}', r'has no list of scans: write \{"training"'),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"training": [{"label": "a.nii.gz"}]}', r"the entry .*label.* is not of the form"),
        ('{"training": [{"image": ["a.nii.gz", null]}]}', r"the entry .*null.* is not of the form"),
    ],
    ids=range(5),
)
def test_a_data_list_without_scans_or_with_an_odd_entry_is_refused(tmp_path, text, words):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(UserError, match=words):
        find_scans(tmp_path / "list.json")


def test_the_hash_knows_names_and_sizes_and_not_the_place(tmp_path):
    def hashed(folder: str, shape: tuple[int, ...] = (6, 7, 5)) -> str:
        write_scan(tmp_path / folder / "a.nii", shape)
        write_scan(tmp_path / folder / "b.nii", shape)
        return records_hash({"train": find_scans(tmp_path / folder)})

    assert hashed("here") == hashed("there")
    assert hashed("here") != hashed("larger", (6, 7, 6))


@pytest.mark.parametrize(
    ("folder", "count"), [("Task04_Hippocampus", 200), ("ct_tcia_2p5mm", 9), ("sct_spine", 4), ("totalseg_refs", 6)]
)
def test_real_folders_give_their_scans_and_none_of_their_masks(real_data, folder, count):
    assert len(find_scans(real_data / folder)) == count


def test_pretraining_on_the_hippocampus_split_sees_150_images(real_data):
    folder = real_data / "Task04_Hippocampus"
    used = set(names(find_scans(folder, data_split="splits.json")))
    tested = set(names(find_scans(folder, data_split="splits.json", sections=["test"])))
    assert (len(used), len(tested), len(used & tested)) == (150, 50, 0)


def test_a_fingerprint_tells_other_voxels_of_the_same_size_and_not_the_place(tmp_path):
    volume = np.zeros((40, 40, 40), dtype=np.float32)
    path = write_nifti(tmp_path / "data" / "a.nii", volume)

    def fingerprint(folder: str = "data") -> str:
        return data_fingerprint({"train": find_scans(tmp_path / folder)})

    before, size = fingerprint(), path.stat().st_size
    shutil.copytree(tmp_path / "data", tmp_path / "moved" / "elsewhere")
    assert fingerprint("moved/elsewhere") == before
    volume[20, 20, 20] = 1
    write_nifti(path, volume)
    assert path.stat().st_size == size and fingerprint() != before and before.startswith("1 scans, contents ")
