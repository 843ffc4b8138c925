"""Label maps and results of this package beside scans: told by name, header, record or voxels, left out, and said."""

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scan_files import loading, oblique_affine, write_json, write_nifti, write_scan

from desd_components import UserError, VolumeCache, find_labelled, find_scans, usable_records
from desd_components.scans.label_maps import looks_like_labels
from desd_components.scans.planning.survey import survey

SHAPE = (24, 22, 20)


def patches(seed: int = 0, kind: type = np.uint8) -> np.ndarray:
    """Two balls, one in the other."""
    centre = np.random.default_rng(seed).uniform(8, 12, 3)
    distance = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - centre, axis=-1)
    return ((distance < 6).astype(kind) + (distance < 3)).astype(kind)


def grey(levels: int) -> np.ndarray:
    """A noisy ball of so many grey levels in air."""
    noise = np.random.default_rng(1).integers(1, levels, SHAPE)
    return np.where(patches() > 0, noise, 0)


LABELS = {
    "uint8": patches(),
    "0 and 255": patches() * 255.0,
    "large values": patches(kind=np.int32) * 1000,
    "trailing axis": patches()[..., None],
    "next to whole": patches() * 0.99999994,
}
SCANS = {
    "8 bits": grey(256).astype(np.uint8),
    "4 bits": grey(16),
    "threshold": np.where(grey(4000) > 2000, grey(4000), 0),
    "noise": patches() + np.random.default_rng(0).normal(size=SHAPE),
    "no whole numbers": patches() * 0.5,
    "no zero": patches() + 1,
    "NaN": np.full(SHAPE, np.nan),
    "blank": np.zeros(SHAPE),
}


@pytest.mark.parametrize("name", [*LABELS, *SCANS])
def test_patches_of_few_whole_numbers_look_like_labels_and_scans_of_few_values_do_not(name):
    assert looks_like_labels({**LABELS, **SCANS}[name]) is (name in LABELS)


def mixed(folder: Path, scans: int = 3, maps: int = 2) -> None:
    for number in range(scans):
        write_scan(folder / f"p{number}" / "t1.nii.gz", SHAPE, seed=number)
    for number in range(maps):
        write_nifti(folder / f"p{number}" / "consensus.nii.gz", patches(number))


def used(folder: Path, data: Path, choice: str = "stop") -> list[str]:
    cache = VolumeCache(loading("image"), folder / "cache")
    found = usable_records(find_scans(data), cache, choice, folder / "run", data)
    return [Path(scan["image"]).name for scan in found]


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_a_pretraining_leaves_out_what_looks_like_a_label_map_each_time_and_says_it(tmp_path, caplog, choice):
    mixed(tmp_path / "data")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        assert used(tmp_path, tmp_path / "data", choice) == ["t1.nii.gz"] * 3
        assert "2 of 5 scans look like label maps" in caplog.text and "p0/consensus.nii.gz" in caplog.text


def test_a_data_list_is_taken_at_its_word(tmp_path):
    mixed(tmp_path / "data", 1, 1)
    images = ["data/p0/t1.nii.gz", "data/p0/consensus.nii.gz"]
    assert len(used(tmp_path, write_json(tmp_path / "list.json", {"training": images}))) == 2


def test_a_folder_that_holds_nothing_else_is_refused_with_what_to_do(tmp_path):
    mixed(tmp_path / "data", scans=0)
    with pytest.raises(UserError, match="looks like a label map, as all scans do: name scans in a data list"):
        used(tmp_path, tmp_path / "data")


def test_a_plan_does_not_look_at_label_maps(tmp_path):
    mixed(tmp_path / "data")
    assert len(survey(find_scans(tmp_path / "data"), tmp_path / "data", tmp_path / "cache").scans) == 3


def inference(folder: Path, scans: list[Path], results: list[str], record: str = "report.json") -> None:
    """What an inference leaves in a folder, as far as it got."""
    listed = [str(scan) for scan in scans]
    report = {"segmented": listed, "failed": []}
    write_json(folder / record, report if record == "report.json" else {"scans": [{"image": file} for file in listed]})
    for name in results:
        write_nifti(folder / name, patches())


@pytest.mark.parametrize("record", ["report.json", "inference_data.json"])
@pytest.mark.parametrize(
    "results",
    [["p1/ct.nii.gz", "p2/ct.nii.gz"], ["p1/ct/ct.nii.gz", "p2/ct/ct.nii.gz"], ["p1/ct.nii.gz", "p1/ct_prob.nii.gz"]],
    ids=["below sub-folders", "a folder for each", "with probabilities"],
)
def test_results_below_the_scans_are_left_out_and_counted(tmp_path, caplog, results, record):
    scans = [write_scan(tmp_path / patient / "ct.nrrd.nii.gz") for patient in ("p1", "p2")]
    scans = [scan.rename(scan.with_name("ct.nii.gz")) for scan in scans]
    inference(tmp_path / "some" / "depth", scans, results, record)
    assert [scan["image"] for scan in find_scans(tmp_path)] == [str(scan) for scan in scans]
    assert f"{len(results)} results of inferences left out of {len(results) + 2} files" in caplog.text


def test_scans_in_the_folder_of_results_are_kept(tmp_path):
    scans = [write_scan(tmp_path / "p1" / "ct.nii.gz"), write_scan(tmp_path / "p2" / "ct.nii.gz")]
    inference(tmp_path, scans[:1], ["p1/ct/ct.nii.gz"])
    assert [scan["image"] for scan in find_scans(tmp_path)] == [str(scan) for scan in scans]


@pytest.mark.parametrize("content", [{"segmented": "all"}, [], {"scans": 3}, "text"], ids=str)
def test_a_report_of_another_program_means_nothing(tmp_path, content):
    write_scan(tmp_path / "a.nii.gz")
    write_json(tmp_path / "report.json", content)
    write_json(tmp_path / "inference_data.json", content)
    assert len(find_scans(tmp_path)) == 1


def test_results_may_be_labels_to_learn_from(tmp_path):
    scan = write_scan(tmp_path / "images" / "a.nii.gz", SHAPE)
    inference(tmp_path / "labels", [scan], ["a.nii.gz"])
    assert len(find_labelled(tmp_path, ["x", "y"]).training) == 1


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_header_may_say_that_it_is_of_a_label_map(tmp_path, caplog, name, kind, order):
    write_scan(tmp_path / "scan.nii.gz")
    image = kind(patches(), oblique_affine(), kind.header_class(endianness=order))
    image.header.set_intent("label")
    nibabel.save(image, tmp_path / name)
    with caplog.at_level(logging.INFO):
        assert [Path(scan["image"]).name for scan in find_scans(tmp_path)] == ["scan.nii.gz"]
    assert "1 label or mask files left out of 2" in caplog.text
