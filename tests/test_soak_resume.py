"""Ten kills at random moments each, in every way of running; what comes out never differs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked_runs import run_forked
from scan_files import write_pairs
from states import differing, figures

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = 10
CONFIGS = {"desd_pretrain": "train smoke", "desd_seg_finetune": "train small smoke"}
OWN = {
    "desd_pretrain": {"val_volumes": 2, "val_interval": 2},
    "desd_seg_finetune": {"class_names": ["one", "two"], "samples_per_epoch": 8, "val_fraction": 0.5},
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scans"
    write_pairs(folder, [f"case_{number}" for number in range(8)], shape=(16, 17, 16))
    return folder


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2)])
@pytest.mark.parametrize("bundle", list(CONFIGS))
def test_ten_kills_at_random_moments_change_nothing(scans, tmp_path, bundle, processes, workers):
    configs = CONFIGS[bundle] + (" multi_gpu_train" if processes > 1 else "")
    settings: dict[str, Any] = {"dataset_dir": scans, "cache_dir": tmp_path / "cache", **OWN[bundle]}
    settings |= {"max_epochs": 6, "batch_size": 2 // processes, "num_workers": workers, "save_minutes": 0}
    settings |= {"processes": processes}
    started = time.monotonic()
    assert run_forked(bundle, configs, tmp_path / "whole", **settings) == [0] * processes
    duration = time.monotonic() - started

    seed = int(time.time())
    moments = np.random.default_rng(seed)
    print(f"the moments of the kills: seed {seed}, up to {duration:.1f} s")
    kills = attempt = 0
    while kills < KILLS:
        run, attempt = tmp_path / f"run_{attempt}", attempt + 1
        codes = [-9]
        while -9 in codes:
            left = moments.uniform(0, duration) if kills < KILLS else None
            codes = run_forked(bundle, configs, run, kill_after=left, **settings)
            kills += -9 in codes
        assert codes == [0] * processes, run.with_name(f"{run.name}_0.txt").read_text()[-3000:]
        assert differing(tmp_path / "whole", run) == []
        assert figures(tmp_path / "whole") == figures(run)
