"""Promises of inference, of the layout of its results, and of outlines drawn over scans."""

import errno
import itertools
import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Compose, LoadImaged
from scan_files import oblique_affine, write_json, write_nifti, write_scan

from desd_components import ScanReader, UserError, find_scans
from desd_components.base.files import written_whole
from desd_components.pages.outlines import DrawOverlayd
from desd_components.runs.guard import ScanDataset, SkipBadScans
from desd_components.runs.layout import ScanLayout, refuse_overwriting, scans_root
from desd_components.segmentation.inference import FlipInferer

LOAD = Compose([LoadImaged(keys="image", ensure_channel_first=True)])


def uneven(volume: torch.Tensor) -> torch.Tensor:
    """A "network" that treats every place differently."""
    weights = torch.arange(volume[0, 0].numel(), dtype=volume.dtype).reshape(volume.shape[2:])
    return torch.cat([volume * weights, volume - weights], dim=1)


@pytest.mark.parametrize("axes", [(), (1,), (0, 2), (0, 1, 2)], ids=str)
def test_flips_are_averaged_as_written_out_over_axes_that_exist(axes):
    volume, answers = MetaTensor(torch.randn(1, 1, 3, 4, 5), meta={"filename_or_obj": "a.nii.gz"}), []
    for chosen in itertools.product([False, True], repeat=len(axes)):
        dims = [axis + 2 for axis, on in zip(axes, chosen, strict=True) if on]
        answers.append(uneven(volume.flip(dims)).flip(dims))
    found = FlipInferer(SimpleInferer(), axes)(volume, uneven)
    torch.testing.assert_close(found.as_tensor(), (sum(answers) / len(answers)).as_tensor())
    with pytest.raises(UserError, match="flip_axes"):
        FlipInferer(SimpleInferer(), [*axes, 3])
    remembering = FlipInferer(SimpleInferer(), axes)(volume, torch.tanh)
    assert remembering.meta["filename_or_obj"] == "a.nii.gz"


UNREADABLE = {
    "NaN": lambda path: write_nifti(path, np.full((5, 5, 5), np.nan, np.float32)),
    "channels|4D|dimension": lambda path: write_nifti(path, np.zeros((5, 5, 5, 3), np.float32)),
    "bad.nii.gz": lambda path: path.write_bytes(write_scan(path.with_name("whole.nii.gz")).read_bytes()[:80]),
}


@pytest.mark.parametrize("words", UNREADABLE)
def test_a_scan_that_cannot_be_segmented_becomes_its_error(tmp_path, words):
    path = tmp_path / "bad.nii.gz"
    UNREADABLE[words](path)
    sample = ScanDataset([{"image": str(path)}], LOAD)[0]
    assert sample["image"] == str(path)
    assert re.search(words, sample["error"]) and "\n" not in sample["error"]


def test_an_error_that_is_its_own_cause_is_told_and_does_not_hang(tmp_path):
    def fail(scan):
        fault = RuntimeError("odd")
        raise fault from fault

    assert ScanDataset([{"image": str(write_scan(tmp_path / "a.nii.gz"))}], fail)[0]["error"] == "odd"


def test_a_slice_that_cannot_be_decoded_is_named(tmp_path):
    dicom = pytest.importorskip("dicom_files")
    series = dicom.write_series(tmp_path / "series", dicom.hounsfield(), np.diag([1.0, 1.0, 2.0, 1.0]))
    (series / "4.dcm").write_bytes((series / "4.dcm").read_bytes()[:-20])
    load = Compose([LoadImaged(keys="image", reader=ScanReader(), ensure_channel_first=True)])
    sample = ScanDataset([{"image": str(series)}], load)[0]
    assert sample["image"] == str(series) and "4.dcm: its pixels cannot be decoded" in sample["error"]


class Evaluator(Engine):
    """An engine whose own iteration fails on one scan."""

    def _iteration(self, engine: Engine, batch: dict) -> str:
        if "too_big" in batch["image"].meta["filename_or_obj"]:
            raise RuntimeError("out of memory\nand many more lines")
        if "full" in batch["image"].meta["filename_or_obj"]:
            with written_whole(Path("full.nii.gz")):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return "labels"


def image(name: str) -> dict:
    return {"image": MetaTensor(torch.zeros(1), meta={"filename_or_obj": name})}


def run_guarded(batches: list[dict], report: Path) -> dict:
    guard = SkipBadScans(report)
    engine = Evaluator(guard)
    guard.attach(engine)
    engine.run(batches)
    return json.loads(report.read_text())


def test_one_bad_scan_is_listed_and_the_rest_goes_on(tmp_path):
    torn = {"image": ["torn.nii"], "error": ["torn.nii: cannot be read"]}
    report = run_guarded([image("a.nii"), torn, image("too_big.nii"), image("b.nii")], tmp_path / "report.json")
    assert report["segmented"] == ["a.nii", "b.nii"]
    assert report["failed"] == [
        {"image": "torn.nii", "error": "torn.nii: cannot be read"},
        {"image": "too_big.nii", "error": "out of memory"},
    ]


def test_a_disk_that_is_full_ends_the_run_and_is_not_laid_on_the_scans(tmp_path):
    with pytest.raises(UserError, match=r"full.nii.gz: cannot be written \(No space left on device\). Make room there"):
        run_guarded([image("a.nii"), image("full.nii"), image("b.nii")], tmp_path / "report.json")


def test_the_report_says_how_scans_were_read_and_the_table_repeats_it(tmp_path, caplog):
    told = image("in/series")
    told["image"].meta |= {"reader": "DICOM", "warnings": "1 of 9 slices are missing"}
    torn = {"image": ["torn.nii"], "error": ["torn.nii: cannot be read"]}
    with caplog.at_level(logging.INFO):
        report = run_guarded([told, torn, image("b.nii")], tmp_path / "report.json")
    assert report["readers"] == {"in/series": "DICOM", "b.nii": ""}
    assert report["warnings"] == {"in/series": "1 of 9 slices are missing"}
    rows = caplog.text[caplog.text.index("scan | read as | result") :].splitlines()
    assert rows[1:4] == [
        "series   | DICOM     | 1 of 9 slices are missing",
        "b.nii    | -         | done",
        "torn.nii | -         | cannot be read",
    ]


def test_a_scan_in_which_there_is_nothing_to_see_is_told(tmp_path):
    blank, seen = image("blank.nii"), {"image": MetaTensor(torch.arange(8.0), meta={"filename_or_obj": "a.nii"})}
    report = run_guarded([blank, seen], tmp_path / "report.json")
    told = "every voxel has the same value once preprocessed: there is nothing to see"
    assert [scan["warnings"] for scan in report["scans"]] == [[told], []]


def test_nothing_but_bad_scans_is_an_error_after_the_report(tmp_path):
    with pytest.raises(UserError, match="None of 1 scans"):
        run_guarded([image("too_big.nii")], tmp_path / "report.json")
    assert (tmp_path / "report.json").is_file()


OTHERS = {"separate_folder": True, "postfix": "prob", "extension": ".png"}
RESULTS = {  # root of the scans, a scan, its result, settings of the layout
    "name, extension and sub-folder are kept": ("in", "in/x/a.nii", "out/x/a.nii", {}),
    "compressed stays so": ("in", "in/b.nii.gz", "out/b.nii.gz", {}),
    "a series is named after its folder": ("CT 1.5", "CT 1.5", "out/CT 1.5.nii.gz", {}),
    "a folder, a postfix and an extension": ("in", "in/a.nii.gz", "out/a/a_prob.png", OTHERS),
    "from outside, nothing escapes": ("in/deep", "elsewhere/a.nii.gz", "out/a.nii.gz", {}),
    **{
        f"{name} becomes NIfTI": ("in", f"in/x/{name}", "out/x/a.nii.gz", {})
        for name in ("a.nrrd", "a.mha", "a.mhd", "a.dcm", "a")
    },
}


@pytest.mark.parametrize(("root", "scan", "result", "settings"), RESULTS.values(), ids=RESULTS)
def test_a_result_lies_where_its_scan_does_under_its_name(tmp_path, root, scan, result, settings):
    layout = ScanLayout(tmp_path / "out", tmp_path / root, **settings)
    assert layout.filename(subject=tmp_path / scan) == str(tmp_path / result)


def test_two_scans_that_would_share_a_result_and_a_result_on_its_scan_are_refused(tmp_path):
    scans = [{"image": str(tmp_path / name)} for name in ("a.nii.gz", "a.nrrd")]
    with pytest.raises(UserError, match=r"a.nrrd: its result would overwrite that of .*a.nii.gz"):
        refuse_overwriting(scans, [ScanLayout(tmp_path / "out", tmp_path)])
    scans = [{"image": str(write_scan(tmp_path / "a.nii.gz"))}]
    refuse_overwriting(scans, [ScanLayout(tmp_path / "out", tmp_path)])
    with pytest.raises(UserError, match="overwrite"):
        refuse_overwriting(scans, [ScanLayout(tmp_path, tmp_path)])


@pytest.mark.parametrize("names", [("a.nii", "a_prob.nii"), ("a_prob.nii", "a.nii"), ("a.nii", "a.nii.gz")], ids=str)
def test_results_of_two_kinds_that_would_share_a_file_are_refused(tmp_path, names):
    scans = [{"image": str(tmp_path / name)} for name in names]
    labels = ScanLayout(tmp_path / "out", tmp_path)
    probabilities = ScanLayout(tmp_path / "out", tmp_path, postfix="prob")
    overlays = ScanLayout(tmp_path / "out", tmp_path, extension=".png")
    refuse_overwriting(scans, [labels])
    with pytest.raises(UserError, match="its result would overwrite that of"):
        refuse_overwriting(scans, [labels, probabilities, overlays])


def test_root_of_a_list_is_what_its_scans_have_in_common(tmp_path):
    scans = [{"image": str(tmp_path / "in" / "x" / "a.nii")}, {"image": [str(tmp_path / "in" / "y" / "b.nii")]}]
    listed = write_json(tmp_path / "list.json", {"training": scans})
    assert scans_root(listed, scans) == (tmp_path / "in").resolve()
    assert scans_root(tmp_path, scans) == tmp_path.resolve()


def test_a_run_tells_what_of_its_list_is_not_used_once(tmp_path, caplog):
    entries = {"training": [{"image": "a.nii", "fold": 1}, {"image": "b.nii", "fold": 2}, "a.nii"], "extra": ["c.nii"]}
    listed = write_json(tmp_path / "list.json", entries)
    scans_root(listed, find_scans(listed))
    for words in ("are not used: its sections", "the folds of its scans", "1 scans are listed again"):
        assert caplog.text.count(words) == 1


def test_a_link_to_a_scan_keeps_its_own_name(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked.nii.gz").symlink_to(write_scan(tmp_path / "store" / "0815.nii.gz"))
    layout = ScanLayout(tmp_path / "out", tmp_path / "in")
    assert layout.filename(subject=tmp_path / "in" / "linked.nii.gz") == str(tmp_path / "out" / "linked.nii.gz")


def test_results_of_a_decathlon_folder_are_not_sorted_into_its_folders(tmp_path):
    path = write_scan(tmp_path / "imagesTr" / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "imagesTr/a.nii.gz"}]}))
    assert scans_root(tmp_path, [{"image": str(path)}]) == (tmp_path / "imagesTr").resolve()


@pytest.mark.parametrize(("name", "folder"), [("x" * 251 + ".mha", "out"), ("a.nii", "out" + "/long" * 900)])
def test_a_result_whose_path_is_too_long_is_refused_with_the_reason(tmp_path, name, folder):
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\)\. Shorten the name of the scan"):
        refuse_overwriting([{"image": str(tmp_path / name)}], [ScanLayout(tmp_path / folder, tmp_path)])


def overlay(folder: Path, labels: torch.Tensor) -> np.ndarray:
    """The picture (rows, columns, RGB) of a scan of noise, which lies under the scan's name."""
    from matplotlib.image import imread

    meta = {"filename_or_obj": str(folder / "in/sub/a.nii.gz")}
    scan = MetaTensor(torch.rand(labels.shape), affine=oblique_affine(), meta=meta)
    layout = ScanLayout(folder / "out", folder / "in", extension=".png")
    DrawOverlayd("pred", "image", layout, ["background", "liver"])({"pred": scan * 0 + labels, "image": scan})
    return imread(folder / "out" / "sub" / "a.png")[..., :3]


def test_overlays_outline_the_classes_in_their_colors_under_the_names_of_the_scans(tmp_path):
    labels = torch.zeros(1, 20, 18, 16)
    labels[:, 5:15, 5:12, 4:11] = 1
    colorful = [np.ptp(overlay(tmp_path, found), axis=-1).max() for found in (labels, labels * 0)]
    assert colorful[0] > 0.5 and colorful[1] < 0.05  # blue, and shades of grey
    assert overlay(tmp_path, torch.ones(1, 12, 12, 1)).any()  # of a single slice
