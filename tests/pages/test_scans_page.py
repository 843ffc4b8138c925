"""Every command of docs/scans.md runs, on tiny scans of every format, and does what the page says."""

import json
import re
import shlex
from pathlib import Path
from subprocess import CompletedProcess

import nibabel
import numpy as np
import pytest
from bundle_runs import ENVIRONMENT, ROOT
from dicom_files import hounsfield, localizer, read_back, stored_grid, write_series
from forks import bundle_command
from itk_files import write_itk
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset
from scan_files import oblique_affine, write_nifti

from desd_components import read_manifest
from desd_components.pages.handlers import scan_as_stored

TEXT = (ROOT / "docs" / "scans.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S) for line in block.splitlines()]
SHAPE = (26, 24, 22)
SAME = ["ct.nii.gz", "ct_nrrd.nrrd", "ct_mha.mha", "series"]  # one volume in four forms


def body() -> np.ndarray:
    """Whole HU that a series can store: a bright body with a darker core in noise."""
    voxels = hounsfield(SHAPE) // 20
    voxels[5:20, 4:19, 4:18] += 600
    voxels[9:15, 8:14, 8:13] -= 300
    return voxels


def two_sizes(dataset: Dataset, number: int) -> None:
    if number == 3:
        dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with the folders that the page names."""
    place = tmp_path_factory.mktemp("page")
    (place / "bundles").symlink_to(ROOT / "bundles")
    scans, voxels, affine = place / "data" / "scans", body(), oblique_affine()
    write_nifti(scans / "one" / "ct.nii.gz", stored_grid(voxels).astype(np.float32), affine)
    for name in ("ct_nrrd.nrrd", "ct_mha.mha"):
        write_itk(scans / "one" / name, stored_grid(voxels), affine)
    write_series(scans / "one" / "series", voxels, affine)
    write_series(scans / "one" / "scout", voxels[:, :, :2], affine, change=localizer)
    write_series(scans / "two" / "gap", voxels[::-1], affine, leave_out=(7,), names="IM{}".format)
    write_series(scans / "two" / "mixed", voxels, affine, change=two_sizes)
    return place


def run(command: str, place: Path) -> CompletedProcess:
    """One of the page's commands; a training gets the smoke overlay on top."""
    words = shlex.split(command)
    if "training" in words:
        place_of = words.index("--config_file") + 1
        words[place_of] = words[place_of].replace(
            "small.yaml'", "small.yaml','bundles/desd_pretrain/configs/smoke.yaml'"
        )
    assert words[1:3] == ["-m", "monai.bundle"]
    return bundle_command(words[3:], place, ENVIRONMENT)


def command_with(*words: str) -> str:
    return next(command for command in COMMANDS if all(word in command for word in words))


def test_the_page_shows_these_commands():
    assert len(COMMANDS) == 5 and all(command.startswith(("python -m monai.bundle ", "desd ")) for command in COMMANDS)


@pytest.fixture(scope="module")
def segmented(world: Path) -> tuple[Path, str]:
    done = run(command_with("desd_seg_finetune", "inference"), world)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return world / "runs" / "segmented", done.stdout + done.stderr


def labels_of(folder: Path, name: str) -> nibabel.Nifti1Image:
    return nibabel.load(folder / "one" / f"{name.split('.')[0]}.nii.gz")


@pytest.mark.parametrize("name", SAME[1:])
def test_the_same_volume_gets_the_same_labels_at_the_same_place_in_every_format(segmented, name):
    first, other = labels_of(segmented[0], SAME[0]), labels_of(segmented[0], name)
    assert len(np.unique(first.dataobj)) > 1  # something was found
    world = apply_affine(first.affine, np.argwhere(np.asarray(first.dataobj) > 0))
    places = apply_affine(np.linalg.inv(other.affine), world)
    np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
    moved = np.zeros(first.shape)
    moved[tuple(np.rint(places).astype(int).T)] = np.asarray(first.dataobj)[np.asarray(first.dataobj) > 0]
    assert (moved != np.asarray(other.dataobj)).mean() < 1e-3  # rounding of the affines, at most


def test_the_report_and_the_table_say_how_each_scan_was_read(segmented):
    folder, said = segmented
    report = json.loads((folder / "report.json").read_text())
    kinds = {Path(path).name: kind for path, kind in report["readers"].items()}
    assert kinds == {
        "ct.nii.gz": "NIfTI", "ct_nrrd.nrrd": "NRRD", "ct_mha.mha": "MetaImage", "series": "DICOM", "gap": "DICOM",
    }  # fmt: skip
    assert {Path(path).name: text for path, text in report["warnings"].items()} == {
        "gap": "1 of 22 slices are missing (after slice 7): interpolated"
    }
    assert [Path(failed["image"]).name for failed in report["failed"]] == ["mixed"]
    table = said[said.index("scan | read as | result") :]
    assert re.search(r"^gap +\| DICOM +\| 1 of 22 slices are missing", table, flags=re.M)
    assert re.search(r"^mixed +\| - +\| mixes slices of several sizes", table, flags=re.M)
    assert re.search(r"^ct_mha.mha +\| MetaImage \| done", table, flags=re.M)


def test_dicom_seg_lies_beside_the_labels_of_series_alone(segmented, world):
    folder, said = segmented
    written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm"))
    assert written == ["one/series.dcm", "two/gap.dcm"]
    assert "ct.nii.gz: is no DICOM series, so that no DICOM-SEG can refer to it" in said
    segmentation = read_back(folder / "one" / "series.dcm")
    source = read_back(world / "data" / "scans" / "one" / "series" / "0.dcm")
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    classes = read_manifest(ROOT / "bundles" / "desd_seg_finetune" / "models" / "model.pt")["class_names"]
    assert [one.SegmentLabel for one in segmentation.SegmentSequence] == classes[1:]
    voxels = int((np.asarray(labels_of(folder, "series").dataobj) > 0).sum())
    assert int(segmentation.pixel_array.sum()) == voxels


@pytest.mark.soak
def test_pretraining_takes_all_formats_and_leaves_out_what_is_refused(world):
    done = run(command_with("training"), world)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run_folder = world / "runs" / "pretrained"
    assert (run_folder / "encoder.pt").is_file()
    (left_out,) = json.loads((run_folder / "quarantine.json").read_text())
    assert "mixed: mixes slices of several sizes" in left_out["reason"]
    assert "gap: 1 of 22 slices are missing (after slice 7): interpolated" in done.stdout + done.stderr


@pytest.mark.parametrize("name", SAME)
def test_pictures_show_a_scan_of_any_format_as_it_is_stored(world, name):
    shown, nifti = (scan_as_stored(str(world / "data" / "scans" / "one" / one)) for one in (name, SAME[0]))
    np.testing.assert_array_equal(shown.numpy(), nifti.numpy())
    np.testing.assert_allclose(shown.affine, nifti.affine, atol=1e-4)
