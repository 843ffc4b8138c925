"""What a person sees while a run goes on."""

import io
import logging
import sqlite3
import sys

import pytest
import torch
from bundle_runs import run_bundle, succeed
from ignite.engine import Engine
from scan_files import write_pairs

from desd_components import ProgressHandler
from desd_components.runs import progress


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_sees_loss_speed_and_time_left_and_a_file_sees_none_of_it(terminal, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(0.25)})
    ProgressHandler("pre-train").attach(engine)
    engine.run(range(40), max_epochs=1)
    shown = stream.getvalue()
    assert all(part in shown for part in ("pre-train", "loss=0.25", "it/s", "<")) if terminal else shown == ""


def test_after_twenty_iterations_a_run_says_how_long_it_will_take_and_after_each_epoch_where_it_is(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])

    def step(engine, batch):
        clock[0] += 60.0 if engine.state.iteration <= 5 else 3.0  # the first few are slow
        return {"loss": torch.tensor(0.25)}

    engine = Engine(step)
    ProgressHandler("pre-train").attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run(range(40), max_epochs=3)
    assert [record.getMessage() for record in caplog.records if record.name == progress.__name__] == [
        "3.00 s a step: about 5 min to go.",
        *(f"pre-train: epoch {epoch} of 3, loss 0.2500" for epoch in (1, 2, 3)),
    ]


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
