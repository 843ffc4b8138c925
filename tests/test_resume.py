"""A run that stopped goes on as if it had not."""

import pytest
import torch
from test_handlers import Run

from desd_components import (
    CosineSchedule,
    FreezePrototypesHandler,
    LearningRateHandler,
    ResNet3DEncoder,
    ResumeHandler,
    TeacherEMAHandler,
    UserError,
)


def pretraining(folder, epochs, stop_after=None, resume="auto", **settings):
    torch.manual_seed(0)
    encoder = ResNet3DEncoder(depth=10, width=8, stem_kernel=3, stem_stride=1, stem_pool=False)
    run = Run(encoder, epochs=stop_after or epochs)
    rate = LearningRateHandler(run.optimizer, CosineSchedule(0.1, 0.01, total_steps=4 * epochs, warmup_steps=2))
    teacher = TeacherEMAHandler(run.network, CosineSchedule(0.9, 1.0, total_steps=4 * epochs))
    parts = {"network": run.network, "optimizer": run.optimizer, "loss": run.loss, "rate": rate, "teacher": teacher}
    state = ResumeHandler(folder, parts, {"epochs": epochs, **settings}, resume)
    return run.train(state, rate, teacher, FreezePrototypesHandler(run.network))


def differing(a, b):
    pairs = [(a.network.state_dict(), b.network.state_dict()), (a.loss.state_dict(), b.loss.state_dict())]
    return [name for x, y in pairs for name in x if not torch.equal(x[name], y[name])]


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_ends_bit_for_bit_like_the_unbroken_one(tmp_path, stop_after):
    whole = pretraining(tmp_path / "whole", epochs=3)
    pretraining(tmp_path / "broken", epochs=3, stop_after=stop_after)
    resumed = pretraining(tmp_path / "broken", epochs=3)
    assert resumed.trainer.state.iteration == 12
    assert differing(whole, resumed) == []
    for a, b in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])


def test_never_starts_anew(tmp_path):
    pretraining(tmp_path, epochs=2, stop_after=1)
    assert differing(pretraining(tmp_path, epochs=2, resume="never"), pretraining(tmp_path / "other", epochs=2)) == []


def test_other_settings_are_refused_with_what_differs(tmp_path):
    pretraining(tmp_path, epochs=2, stop_after=1, batch_size=4)
    with pytest.raises(UserError, match="batch_size was 4, now 8; epochs was 2, now 3"):
        pretraining(tmp_path, epochs=3, batch_size=8)


def test_a_file_that_is_no_state_is_refused(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "encoder.pt")
    with pytest.raises(UserError, match="not the state of a run"):
        pretraining(tmp_path, epochs=1, resume=str(tmp_path / "encoder.pt"))
    with pytest.raises(UserError, match="no such weights file"):
        pretraining(tmp_path, epochs=1, resume=str(tmp_path / "nothing.pt"))


def test_the_state_before_the_last_is_kept(tmp_path):
    pretraining(tmp_path, epochs=2)
    epochs = {p.name: torch.load(p, weights_only=True)["epoch"] for p in tmp_path.glob("state*.pt")}
    assert epochs == {"state.pt": 2, "state_previous.pt": 1}
