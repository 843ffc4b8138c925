import io
import sys

import pytest
import torch
from ignite.engine import Engine

from desd_components import ProgressHandler


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
