"""What cases are called where all files have the same name, one folder per case, as in KiTS: one name everywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from forked_runs import run_forked
from labelled_volumes import CLASSES, bodies
from scan_files import write_json, write_label, write_nifti, write_scan

from desd_components import CaseNames, ScanLayout, find_labelled, find_scans, scans_root
from desd_components.pages.runs import read_run
from desd_tools.studies.cases import find_case, score_of
from desd_tools.studies.roles import ensure_split

CASES = [f"case_{number:05d}" for number in range(6)]
TUNE = "desd_seg_finetune"


def scan(image: str, label: str | None = None) -> dict[str, Any]:
    return {"image": image} if label is None else {"image": image, "label": label}


def kits_entry(case: str) -> dict[str, Any]:
    return scan(f"{case}/imaging.nii.gz", f"{case}/segmentation.nii.gz")


def kits_list(folder: Path, cases: list[str], **sections: list[str]) -> Path:
    """A data list of cases in folders of their own; by default all of them train."""
    entries = {case: kits_entry(case) for case in cases}
    chosen = sections or {"training": cases}
    return write_json(folder / "list.json", {name: [entries[case] for case in part] for name, part in chosen.items()})


@pytest.fixture
def kits(tmp_path: Path) -> Path:
    for number, case in enumerate(CASES):
        write_scan(tmp_path / case / "imaging.nii.gz", seed=number)
        write_label(tmp_path / case / "segmentation.nii.gz")
    return kits_list(tmp_path, CASES)


@pytest.mark.parametrize(
    ("images", "ids", "files"),
    [
        (
            ["k/c0/imaging.nii.gz", "k/c1/imaging.nii.gz"],
            "c0/imaging c1/imaging",
            "c0/imaging.nii.gz c1/imaging.nii.gz",
        ),
        (["a/ct.nii", "b/ct.nii", "b/mr.nii"], "a/ct b/ct mr", "a/ct.nii b/ct.nii mr.nii"),
        (["x/p1/t1/s.nii", "y/p1/t1/s.nii"], "x/p1/t1/s y/p1/t1/s", "x/p1/t1/s.nii y/p1/t1/s.nii"),
        (["a/x.nii.gz", "b/a.nii.gz"], "x b/a", "x.nii.gz a.nii.gz"),  # a name that is the folder of another case
    ],
)
def test_a_case_has_as_many_folders_in_its_name_as_tell_it_from_all_others(images, ids, files) -> None:
    scans = [scan(f"/data/{image}") for image in images]
    names = CaseNames(scans)
    assert [names.id(case) for case in scans] == ids.split()
    assert [names.file(case["image"]) for case in scans] == files.split()
    assert names.image(scans[0]["image"]) == files.split()[0].partition(".")[0]


def test_the_split_of_a_run_on_such_data_can_be_read_again(kits: Path) -> None:
    drawn = find_labelled(kits, ["a", "b"], seed=3, val_fraction=0.4, num_labels=2)
    drawn.write_split(kits.parent / "run" / "split.json")
    again = find_labelled(kits, ["a", "b"], data_split=kits.parent / "run" / "split.json")
    assert (again.training, again.validation) == (drawn.training, drawn.validation)
    told = json.loads((kits.parent / "run" / "split.json").read_text())["records_hash"]
    assert again.records_hash == drawn.records_hash == told
    assert len(find_scans(kits, data_split=kits.parent / "run" / "split.json")) == 4


@pytest.mark.parametrize("written", ["case_00002", "case_00002/imaging", "case_00002/imaging.nii.gz"])
def test_a_split_may_say_the_folder_or_folder_and_file(kits: Path, written: str) -> None:
    split = write_json(kits.parent / "mine.json", {"train": [written]})
    [found] = find_labelled(kits, ["a", "b"], val_fraction=0, data_split=split).training
    assert Path(found["image"]).parent.name == "case_00002"


def test_the_log_tells_cases_apart_whose_files_have_one_name(kits: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = [scan(f"{case}/imaging.nii.gz") for case in CASES[:2]]
    unlabelled = write_json(kits.parent / "part.json", {"training": [*entries, kits_entry(CASES[2])]})
    find_labelled(unlabelled, ["a", "b"], val_fraction=0)
    assert "2 images without a label left out: case_00000/imaging.nii.gz, case_00001/imaging.nii.gz" in caplog.text
    split = write_json(kits.parent / "mine.json", {"train": ["case_00002", "elsewhere/imaging"]})
    find_scans(kits, data_split=split)
    assert "1 of 2 cases have no scan: elsewhere/imaging" in caplog.text


def test_roles_are_given_to_cases_not_to_file_names(kits: Path) -> None:
    ensure_split(kits, kits.parent / "splits.json", class_names=["a", "b"])
    sections = json.loads((kits.parent / "splits.json").read_text())
    assert sorted(case for part in sections.values() for case in part) == [f"{case}/imaging" for case in CASES]


def test_the_result_of_one_case_of_a_list_keeps_the_folder_that_names_it(kits: Path, tmp_path: Path) -> None:
    split = write_json(tmp_path / "one.json", {"test": ["case_00004"]})
    scans = find_scans(kits, data_split=split, sections=["test"])
    layout = ScanLayout(tmp_path / "out", scans_root(kits, scans))
    assert layout.filename(scans[0]["image"]) == str(tmp_path / "out" / "case_00004" / "imaging.nii.gz")
    assert layout.image(scans[0]["image"]) == "case_00004/imaging"


SIZES = [(24, 22, 20), (20, 26, 18), (22, 20, 24)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning, its evaluation and an inference on three such cases."""
    place = tmp_path_factory.mktemp("kits")
    for number, (case, shape) in enumerate(zip(CASES, SIZES, strict=False)):
        labels = bodies(shape, seed=number)
        write_nifti(place / case / "imaging.nii.gz", (labels * 100.0).astype("float32"))
        write_nifti(place / case / "segmentation.nii.gz", labels)
    listed = kits_list(place, CASES[:3], training=CASES[:2], validation=CASES[2:3])
    common = {"dataset_dir": listed, "page": True}
    training = {**common, "class_names": CLASSES, "cache_dir": place / "cache"}
    stages = [
        (TUNE, "train small smoke", place / "run", training),
        (TUNE, "train small smoke evaluate", place / "run", {**training, "section": "all"}),
        (TUNE, "inference", place / "out", {**common, "checkpoint": place / "run" / "model.pt", "outlines": True}),
    ]
    for bundle, configs, output, settings in stages:
        assert run_forked(bundle, configs, output, **settings) == [0], Path(f"{output}_0.txt").read_text()[-3000:]
    return place


def test_an_evaluation_scores_and_shows_each_case_under_its_own_name(tuned: Path) -> None:
    cases = json.loads((tuned / "run" / "metrics.json").read_text())["cases"]
    page = (tuned / "run" / "report.html").read_text()
    assert [case["image"] for case in cases] == [f"{case}/imaging.nii.gz" for case in CASES[:3]]
    assert all(case["image"] in page for case in cases) and page.count("/imaging: Dice") == 3


def test_no_result_of_an_inference_overwrites_another_and_each_bears_its_case_s_name(tuned: Path) -> None:
    results = {path.relative_to(tuned / "out").as_posix() for path in (tuned / "out").rglob("imaging.*")}
    wanted = [f"{case}/imaging" for case in CASES[:3]]
    assert results == {f"{name}.nii.gz" for name in wanted} | {f"outlines/{name}.png" for name in wanted}
    assert all(f"<b>{name}.</b>" in (tuned / "out" / "report.html").read_text() for name in wanted)


def test_pages_that_lay_results_over_truth_find_those_of_the_case_itself(tuned: Path) -> None:
    data, run = find_labelled(tuned / "list.json", CLASSES), read_run(tuned / "run")
    scores = {case["image"]: case["dice"] for case in run.metrics["cases"]}
    for labelled in [*data.training, *data.validation]:
        case = find_case(labelled, data.case_names, {"arm": tuned / "out"})
        assert case is not None and case.predictions["arm"].parent.name == case.truth.parent.name
        known = [value for value in scores[f"{case.name}.nii.gz"].values() if value is not None]
        assert score_of(run, case) == pytest.approx(sum(known) / len(known))
