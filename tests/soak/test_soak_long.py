"""Two thousand steps: memory, files and the log stay as they are after the first hundred."""

import json

import pytest
from forked_runs import overlay, run_forked
from scan_files import write_pairs

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

STEPS_OF_AN_EPOCH, EPOCHS, WARM = 8, 250, 25


def test_two_thousand_steps_cost_no_memory_no_file_and_no_readable_log(tmp_path, record_property):
    write_pairs(tmp_path / "scans", [f"case_{number}" for number in range(8)], shape=(20, 22, 20))
    small = {"view_size": [16, 16, 16], "batch_size": 2, "max_epochs": EPOCHS, "num_workers": 0}
    encoder = {"depth": 10, "width": 8, "norm": "group", "stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
    encoder["stage_strides"] = [2, 2, 2, 1]  # cheap: stage 4 keeps 2 x 2 x 2 voxels
    watch = overlay(tmp_path / "watch.yaml", {"_target_": "interruptions.Watch", "path": str(tmp_path / "seen.jsonl")})
    places = {"dataset_dir": tmp_path / "scans", "cache_dir": tmp_path / "cache"}
    settings = {"encoder": encoder, "timeout": 3000, **small, **places}
    codes = run_forked("desd_pretrain", "train small", tmp_path / "run", watch, **settings)
    assert codes == [0], (tmp_path / "run_0.txt").read_text()[-3000:]

    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert seen[-1]["iteration"] == STEPS_OF_AN_EPOCH * EPOCHS == 2000
    first, last = seen[WARM - 1], seen[-1]
    lines = len((tmp_path / "run" / "train.log").read_text().splitlines())
    grown = 100 * (last["memory"] / first["memory"] - 1)
    record_property("fault", "nothing, for 2,000 steps of the small recipe")
    record_property("tried", "2,000 steps")
    record_property("survived", f"{last['iteration']:,}")
    record_property(
        "seen",
        f"memory {grown:+.1f} % and open files {first['files']} -> {last['files']} from step {first['iteration']} on, "
        f"{lines / EPOCHS:.1f} log lines an epoch",
    )
    assert last["memory"] < 1.03 * first["memory"]
    assert last["files"] <= first["files"]
    assert lines < 5 * EPOCHS
