"""Bad scans at the start of a run, and files that vanish in the middle of it: one line, a list, never a hang."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from bundle_runs import run_bundle, succeed
from scan_files import loading, write_label, write_nifti, write_scan
from torch.utils.data import DataLoader

from desd_components import ContextDataset, LabelledData, UserError, VolumeCache, usable_labelled, usable_records


def written(folder: Path, good: int, bad: int = 0) -> list[dict]:
    """Scans of good scans, then of constant ones."""
    scans = [{"image": str(write_scan(folder / f"good_{n}.nii.gz", (20, 20, 20), seed=n))} for n in range(good)]
    constant = np.ones((20, 20, 20), np.float32)
    return scans + [{"image": str(write_nifti(folder / f"flat_{n}.nii.gz", constant))} for n in range(bad)]


def cache_of(folder: Path, *keys: str) -> VolumeCache:
    return VolumeCache(loading(*keys), folder / "cache", keys, class_count=2)


def used(scans: list[dict], folder: Path, choice: str = "skip") -> list[dict]:
    return usable_records(scans, cache_of(folder, "image"), choice, folder / "run")


def test_skipped_scans_are_left_out_counted_and_listed_with_their_reason(tmp_path, caplog):
    scans = written(tmp_path / "data", good=3, bad=1)
    assert used([*scans, scans[3]], tmp_path) == scans[:3]  # listed twice, left out twice
    for entry in json.loads((tmp_path / "run" / "quarantine.json").read_text()):
        assert entry["file"] == scans[3]["image"] and "every voxel has the same value" in entry["reason"]
    assert "2 of 5 scans are left out (on_bad_volume: skip)" in caplog.text


def test_a_missing_file_and_a_truncated_one_are_skipped_alike(tmp_path):
    scans = written(tmp_path / "data", good=4)
    Path(scans[0]["image"]).unlink()
    Path(scans[2]["image"]).write_bytes(Path(scans[2]["image"]).read_bytes()[:9000])
    assert used(scans, tmp_path) == [scans[1], scans[3]]


def test_stop_leaves_the_refusal_to_the_data_set_and_writes_no_list(tmp_path):
    scans = written(tmp_path / "data", good=1, bad=1)
    assert used(scans, tmp_path, "stop") == scans
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("good", "bad"), [(1, 2), (0, 2)])
def test_less_than_half_left_stops_the_run_in_one_line_and_half_is_enough(tmp_path, good, bad):
    words = rf"^{tmp_path}/run/quarantine.json: {good} of {good + bad} scans are left, less than half .*mend the data"
    with pytest.raises(UserError, match=words) as told:
        used(written(tmp_path / "data", good, bad), tmp_path)
    assert "\n" not in str(told.value)
    assert len(used(written(tmp_path / "half", good=2, bad=2), tmp_path)) == 2


def test_another_choice_is_refused(tmp_path):
    with pytest.raises(UserError, match="on_bad_volume='ignore': choose stop, or skip"):
        used(written(tmp_path / "data", good=1), tmp_path, "ignore")


def test_a_bad_label_leaves_its_pair_out_of_its_section_alone(tmp_path):
    scans = written(tmp_path / "data", good=4)
    for number, scan in enumerate(scans):
        values = 9 if number == 3 else 2
        scan["label"] = str(write_label(tmp_path / f"label_{number}.nii.gz", (20, 20, 20), values))
    data = LabelledData(["background", "organ"], scans[:2], scans[2:])
    left = usable_labelled(data, cache_of(tmp_path, "image", "label"), "skip", tmp_path / "run")
    assert (left.training, left.validation) == (scans[:2], scans[2:3])
    [entry] = json.loads((tmp_path / "run" / "quarantine.json").read_text())
    assert entry["file"] == scans[3]["label"]


def test_a_great_many_scans_are_told_apart_in_a_moment(tmp_path):
    scans = [{"image": f"{number}.nii.gz", "label": f"{number}_seg.nii.gz"} for number in range(115_000)]
    data = LabelledData(["background", "organ"], scans[:90_000], scans[90_000:])
    started = time.process_time()
    assert usable_labelled(data, cache_of(tmp_path, "image", "label"), "stop", tmp_path / "run") == data
    assert time.process_time() - started < 2


def smoke(name: str, folder: Path, **settings: object) -> object:
    given = {"output_dir": folder / "run", "cache_dir": folder / "cache", "dataset_dir": folder / "data"}
    return run_bundle(name, "train smoke", "training", **given, **settings)


def test_a_fine_tuning_skips_as_it_is_told(tmp_path):
    written(tmp_path / "data" / "images", good=3, bad=1)
    for path in (tmp_path / "data" / "images").iterdir():
        write_label(tmp_path / "data" / "labels" / path.name, (20, 20, 20), 2)
    settings = {"class_names": "['organ']", "on_bad_volume": "skip", "max_epochs": 1}
    succeed(smoke("desd_seg_finetune", tmp_path, **settings))
    [entry] = json.loads((tmp_path / "run" / "quarantine.json").read_text())
    assert "flat_0.nii.gz" in entry["file"]
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert sorted(split["train"] + split["validation"]) == ["good_0", "good_1", "good_2"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_volume_that_vanishes_from_the_cache_ends_the_run_in_one_line(tmp_path, num_workers):
    dataset = ContextDataset(written(tmp_path / "data", 2), cache_of(tmp_path, "image"), [8, 8, 8], [1, 2])
    Path(dataset.entries[1]).unlink()
    with pytest.raises(UserError) as ended:
        list(DataLoader(dataset, num_workers=num_workers))
    line = str(ended.value)  # which Ignite logs, too
    assert line.startswith(f"{dataset.entries[1]}: this preprocessed volume was there and cannot be read any more")
    assert "\n" not in line and "start the same command again" in line


def test_a_scan_that_vanishes_before_the_next_start_is_named(tmp_path):
    scans = written(tmp_path / "data", 2)
    used(scans, tmp_path)
    Path(scans[1]["image"]).unlink()
    with pytest.raises(UserError, match=r"good_1.nii.gz: does not exist: mend the data list"):
        ContextDataset(scans, cache_of(tmp_path, "image"), [8, 8, 8], [1, 2])
