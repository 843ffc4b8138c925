"""`compile: true` is the same training: to rounding, with the same states, which either form goes on from."""

import pytest
import torch
from forked_runs import overlay, run_forked
from labelled_volumes import CLASSES, write_cases
from scan_files import write_pairs
from states import figures

from desd_components.runs.state import read_state


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train in a folder that goes on from its state."""
    places = tmp_path_factory.mktemp("data")
    write_pairs(places / "scans", [f"case_{number}" for number in range(8)], shape=(16, 17, 16))
    settings = {"dataset_dir": places / "scans", "cache_dir": places / "cache", "run_folder#save_minutes": 0}

    def run(folder, *more, compile):
        return run_forked("desd_pretrain", "train smoke", folder, *more, timeout=900, compile=compile, **settings)

    return run


@pytest.mark.soak  # compiling takes a minute
@pytest.mark.parametrize("first", [True, False], ids=["compiled first", "plain first"])
def test_a_run_compiled_in_part_is_the_plain_one_to_rounding_with_its_files(train, tmp_path, first):
    assert train(tmp_path / "plain", compile=False) == [0]
    stop = overlay(tmp_path / "stop.yaml", {"_target_": "interruptions.SignalAt", "iteration": 2, "name": "SIGTERM"})
    assert train(tmp_path / "run", stop, compile=first) == [143]
    assert train(tmp_path / "run", compile=not first) == [0]
    plain, other = (read_state(tmp_path / run / "state.pt")["objects"] for run in ("plain", "run"))
    assert plain.keys() == other.keys()
    assert list(plain["network"]) == list(other["network"])
    names = [list(torch.load(tmp_path / run / "encoder.pt")) for run in ("plain", "run")]
    assert names[0] == names[1]
    losses = [[r["loss"] for r in figures(tmp_path / run) if "loss" in r] for run in ("plain", "run")]
    assert len(losses[0]) == 8 and losses[0][:3] == pytest.approx(losses[1][:3], rel=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=0.01)  # rounding grows from step to step


@pytest.mark.soak
def test_a_fine_tuning_with_losses_at_several_levels_is_the_plain_one_to_rounding(tmp_path):
    data = {"dataset_dir": write_cases(tmp_path / "scans"), "cache_dir": tmp_path / "cache", "class_names": CLASSES}
    for name in ("plain", "compiled"):
        settings = {**data, "compile": name == "compiled", "samples_per_epoch": 4, "max_epochs": 1}
        assert run_forked("desd_seg_finetune", "train small smoke", tmp_path / name, timeout=900, **settings) == [0]
    plain, other = (figures(tmp_path / run) for run in ("plain", "compiled"))
    losses = [[r["loss"] for r in run if "loss" in r] for run in (plain, other)]
    assert losses[0] and losses[0] == pytest.approx(losses[1], rel=1e-3)
    weights = [torch.load(tmp_path / run / "model.pt") for run in ("plain", "compiled")]
    assert list(weights[0]) == list(weights[1])
