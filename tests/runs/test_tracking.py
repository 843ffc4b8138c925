"""Promises of `desd_components.runs.progress`."""

from __future__ import annotations

import json
import sqlite3

import pytest
import torch
from bundle_runs import run_bundle, succeed
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.engines import SupervisedTrainer
from monai.handlers import from_engine
from scan_files import write_pairs

from desd_components import RunRecordHandler
from desd_components.runs.progress import TrackableOutputHandler


def trainer(*handlers: object) -> SupervisedTrainer:
    network = torch.nn.Conv3d(1, 1, 1)
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(2, 1, 2, 2, 2), "label": torch.zeros(2, 1, 2, 2, 2)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=torch.nn.MSELoss(),
        train_handlers=handlers,
        decollate=False,
    )
    engine.run()
    return engine


def test_the_loss_is_read_as_tracking_and_as_handlers_read_it():
    output = trainer(TrackableOutputHandler()).state.output
    asked = DEFAULT_MLFLOW_SETTINGS["configs"]["trainer"]["output_transform"]
    assert asked == "$monai.handlers.from_engine(['loss'], first=True)"
    assert from_engine(["loss"], first=True)(output) is output["loss"]
    assert output["loss"].ndim == 0


def test_without_it_tracking_reads_a_tuple():
    assert isinstance(from_engine(["loss"], first=True)(trainer().state.output), tuple)


def test_records_of_the_run_are_written_as_before(tmp_path):
    trainer(TrackableOutputHandler(), RunRecordHandler(tmp_path))
    assert json.loads((tmp_path / "history.jsonl").read_text().splitlines()[0])["loss"] > 0


@pytest.mark.parametrize("bundle", ["desd_pretrain", "desd_seg_finetune"])
def test_tracking_by_mlflow_records_the_loss_of_a_bundle(bundle, tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed: tracking is not tried")
    write_pairs(tmp_path / "data", ["a", "b", "c"], shape=(20, 20, 20))
    classes = {} if bundle == "desd_pretrain" else {"class_names": "['one','two']"}
    settings = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "run", "cache_dir": tmp_path / "cache"}
    warmup = {"warmup_steps": 0} if bundle == "desd_pretrain" else {}
    settings |= {"max_epochs": 1, "tracking": "mlflow", **classes, **warmup}
    succeed(run_bundle(bundle, "train smoke", "training", **settings))
    with sqlite3.connect(tmp_path / "run" / "mlruns.db") as database:
        names = {name for (name,) in database.execute("select key from metrics")}
    assert any("loss" in name for name in names), names
