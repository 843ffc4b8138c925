"""Promises of `desd_components.tracking`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.engines import SupervisedTrainer
from monai.handlers import from_engine

from desd_components import RunRecordHandler
from desd_components.tracking import TrackableOutputHandler


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


def test_the_loss_is_read_as_tracking_and_as_handlers_read_it() -> None:
    output = trainer(TrackableOutputHandler()).state.output
    asked = DEFAULT_MLFLOW_SETTINGS["configs"]["trainer"]["output_transform"]
    assert asked == "$monai.handlers.from_engine(['loss'], first=True)"
    assert from_engine(["loss"], first=True)(output) is output["loss"]
    assert output["loss"].ndim == 0


def test_without_it_tracking_reads_a_tuple() -> None:
    assert isinstance(from_engine(["loss"], first=True)(trainer().state.output), tuple)


def test_records_of_the_run_are_written_as_before(tmp_path: Path) -> None:
    trainer(TrackableOutputHandler(), RunRecordHandler(tmp_path))
    assert json.loads((tmp_path / "history.jsonl").read_text().splitlines()[0])["loss"] > 0
