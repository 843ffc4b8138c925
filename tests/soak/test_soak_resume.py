"""Kills at random moments and damage at random places, in every way of running: what comes out never differs."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked_runs import overlay, run_forked
from scan_files import write_pairs
from states import ends_like, leaves

from desd_components.runs.state import read_state

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = 10
CONFIGS = {"desd_pretrain": "train smoke", "desd_seg_finetune": "train small smoke"}
OWN = {
    "desd_pretrain": {"val_interval": 2},
    "desd_seg_finetune": {"class_names": ["one", "two"], "samples_per_epoch": 8, "val_fraction": 0.5},
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scans"
    write_pairs(folder, [f"case_{number}" for number in range(8)], shape=(16, 17, 16))
    return folder


def settings_of(bundle: str, scans: Path, folder: Path) -> dict[str, Any]:
    places = {"dataset_dir": scans, "cache_dir": folder / "cache"}
    return {**places, **OWN[bundle], "max_epochs": 6, "batch_size": 2, "num_workers": 0, "run_folder#save_minutes": 0}


def compared(run: Path) -> int:
    """How many tensors, numbers and strings a state holds."""
    return sum(1 for _ in leaves(read_state(run / "state.pt")))


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2)])
@pytest.mark.parametrize("bundle", list(CONFIGS))
def test_ten_kills_at_random_moments_change_nothing(scans, tmp_path, record_property, bundle, processes, workers):
    configs = CONFIGS[bundle] + (" multi_gpu_train" if processes > 1 else "")
    settings = settings_of(bundle, scans, tmp_path)
    settings |= {"batch_size": 2 // processes, "num_workers": workers, "processes": processes}
    started = time.monotonic()
    assert run_forked(bundle, configs, tmp_path / "whole", **settings) == [0] * processes
    duration = time.monotonic() - started

    seed = int(time.time())
    moments = np.random.default_rng(seed)
    print(f"the moments of the kills: seed {seed}, up to {duration:.1f} s")
    record_property("fault", f"kill -9 at a random moment: {bundle}, processes: {processes}, loader workers: {workers}")
    record_property("tried", KILLS)
    kills = attempt = 0
    while kills < KILLS:
        run, attempt = tmp_path / f"run_{attempt}", attempt + 1
        codes = [-9]
        while -9 in codes:
            left = moments.uniform(0, duration) if kills < KILLS else None
            codes = run_forked(bundle, configs, run, kill_after=left, **settings)
            kills += -9 in codes
        assert codes == [0] * processes, run.with_name(f"{run.name}_0.txt").read_text()[-3000:]
        assert ends_like(tmp_path / "whole", run)
    record_property("survived", kills)
    record_property("seen", f"0 of {compared(run)} values differ from the unbroken run, {attempt} runs to their end")


@pytest.mark.parametrize("bundle", list(CONFIGS))
def test_ten_states_damaged_at_random_places_change_nothing(scans, tmp_path, record_property, bundle):
    settings = settings_of(bundle, scans, tmp_path)
    assert run_forked(bundle, CONFIGS[bundle], tmp_path / "whole", **settings) == [0]
    stop = overlay(tmp_path / "stop.yaml", {"_target_": "interruptions.SignalAt", "iteration": 11})
    assert run_forked(bundle, CONFIGS[bundle], tmp_path / "killed", stop, **settings) == [-9]

    seed = int(time.time())
    draws = np.random.default_rng(seed)
    print(f"the places of the damage: seed {seed}")
    record_property("fault", f"state.pt cut short, or a bit of it flipped, at a random place: {bundle}")
    record_property("tried", KILLS)
    for attempt in range(KILLS):
        run = tmp_path / f"run_{attempt}"
        shutil.copytree(tmp_path / "killed", run)
        content = bytearray((run / "state.pt").read_bytes())
        place = int(draws.integers(len(content)))
        content[place] ^= 1 << int(draws.integers(8))
        (run / "state.pt").write_bytes(content[:place] if attempt % 2 else content)
        assert run_forked(bundle, CONFIGS[bundle], run, **settings) == [0]
        assert "going on from state_previous.pt instead" in run.with_name(f"{run.name}_0.txt").read_text()
        assert ends_like(tmp_path / "whole", run)
    record_property("survived", KILLS)
    record_property("seen", f"the state before was used, in one line; 0 of {compared(run)} values differ at the end")
