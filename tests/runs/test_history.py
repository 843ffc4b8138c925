"""A run's figures: every line once, and TensorBoard as a view of them."""

import json
from pathlib import Path

import pytest
import torch
from bundle_runs import history
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_pretraining import Run

from desd_components import (
    CodingRateTerm,
    DeepSelfDistillationLoss,
    DistillationMonitor,
    LearningRateHandler,
    RunFolder,
    RunRecordHandler,
    TeacherEMAHandler,
)


def go_on(encoder, folder: Path, lines: int) -> None:
    """Run the second of two epochs of four iterations, on from a state after the first that counts so many lines."""
    record, run = RunRecordHandler(folder, interval=2), Run(encoder, epochs=2)

    class Restored:
        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, self)

        def __call__(self, engine):
            engine.state.epoch, engine.state.iteration = 1, 4
            record.load_state_dict({"records": lines})

    run.train(Restored(), record)


def steps(folder: Path) -> list[tuple[int, int]]:
    return [(record["epoch"], record["step"]) for record in history(folder)]


def drawn(folder: Path, name: str = "loss") -> list[tuple[int, float]]:
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in board.Scalars(name)]


def test_the_record_has_a_line_for_each_interval_with_all_figures(tiny_encoder, tmp_path):
    run = Run(tiny_encoder, accumulation_steps=2)
    rate = LearningRateHandler(run.optimizer, lambda step: 0.1)
    teacher = TeacherEMAHandler(run.network, lambda step: 0.9)
    monitor = DistillationMonitor(run.network, run.loss, interval=2)
    run.train(rate, teacher, monitor, RunRecordHandler(tmp_path, [run.loss, rate, teacher, monitor], interval=2))
    records = history(tmp_path)
    assert [(r["epoch"], r["step"]) for r in records] == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4)]
    wanted = "iteration loss distillation_loss stage_1_loss stage_4_loss teacher_entropy kl teacher_momentum"
    wanted += " teacher_temperature learning_rate feature_rank_1 feature_rank_4 gradient_norm_1 gradient_norm_4"
    assert set(wanted.split()) <= set(records[-1])
    assert all(records[-1][f"gradient_norm_{stage}"] > 0 for stage in (1, 2, 3, 4))
    assert list((tmp_path / "tensorboard").glob("events*"))


class Counter:
    """A part of a run with a figure: how many iterations it has seen."""

    count = 0

    def attach(self, engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        self.count += 1

    def scalars(self):
        return {"count": float(self.count)}


def test_a_run_s_folder_records_figures_after_the_other_handlers_of_an_iteration(tiny_encoder, tmp_path):
    counter, run = Counter(), Run(tiny_encoder, epochs=1)
    folder = RunFolder(tmp_path, {"network": run.network, "counter": counter, "absent": None}, record_interval=1)
    folder.open("cpu", {}, epoch_length=4)
    run.train(folder, counter)
    assert [record["count"] for record in history(tmp_path)] == [1, 2, 3, 4]


def test_a_fresh_run_keeps_no_record_of_the_one_before_and_a_trainer_that_is_run_again_adds_to_its_own(
    tiny_encoder, tmp_path
):
    Run(tiny_encoder, epochs=2).train(RunRecordHandler(tmp_path, interval=4))
    run = Run(tiny_encoder, epochs=1).train(RunRecordHandler(tmp_path, interval=4))
    assert steps(tmp_path) == [(1, 1), (1, 4)]
    run.trainer.state.max_epochs = 2
    run.trainer.run()
    assert steps(tmp_path) == [(1, 1), (1, 4), (2, 8)]
    assert [step for step, _ in drawn(tmp_path)] == [1, 4, 8]


def test_the_loss_is_that_which_the_step_followed_with_every_term(tiny_encoder, tmp_path):
    run = Run(tiny_encoder, epochs=1)
    run.loss = DeepSelfDistillationLoss(16, terms=[CodingRateTerm(0.5)])
    run.train(RunRecordHandler(tmp_path, [run.loss, *run.loss.terms]))
    last = history(tmp_path)[-1]
    assert last["loss"] == pytest.approx(last["distillation_loss"] - 0.5 * last["coding_rate"], abs=1e-4)


def test_an_evaluation_is_drawn_where_the_training_was_and_counted_by_a_state(tiny_encoder, tmp_path, monkeypatch):
    record, evaluator = RunRecordHandler(tmp_path, interval=4), Engine(lambda *_: None)
    evaluator.state.metrics = {"dice": 0.5}
    RunRecordHandler(tmp_path).attach(evaluator)
    Run(tiny_encoder, epochs=1).train(record)
    evaluator.run([0])
    assert drawn(tmp_path, "val_dice") == [(4, 0.5)] and len(history(tmp_path)) == 3
    monkeypatch.setattr(Path, "read_bytes", None)  # the file is not read for it
    assert record.state_dict() == {"records": 3}


def test_a_run_that_goes_on_repeats_no_record_and_draws_each_once_even_what_a_killed_one_had_not(
    tiny_encoder, tmp_path
):
    record = RunRecordHandler(tmp_path, interval=2)
    Run(tiny_encoder, epochs=2).train(record)
    before = history(tmp_path)
    assert record.state_dict() == {"records": 5}
    for file in (tmp_path / "tensorboard").iterdir():
        file.unlink()
    go_on(tiny_encoder, tmp_path, lines=3)
    records = history(tmp_path)
    assert steps(tmp_path) == [(1, 1), (1, 2), (1, 4), (2, 6), (2, 8)] and records[:3] == before[:3]
    assert drawn(tmp_path) == [(record["step"], float(torch.tensor(record["loss"]))) for record in records]


def test_the_seconds_of_a_run_that_goes_on_never_fall(tiny_encoder, tmp_path):
    line = {"epoch": 1, "seconds": 1000.0, "step": 4, "loss": 1.0}
    (tmp_path / "history.jsonl").write_text(json.dumps(line) + "\n")
    go_on(tiny_encoder, tmp_path, lines=1)
    seconds = [record["seconds"] for record in history(tmp_path)]
    assert len(seconds) == 3
    assert 1000.0 <= seconds[1] <= seconds[2] < 1100.0


DAMAGES = {
    "cut short": lambda text: text[:-20],
    "zeros": lambda text: text[:-20] + b"\0" * 20,
    "gone": lambda text: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_records_that_a_power_cut_took_are_counted_and_the_run_goes_on(tiny_encoder, tmp_path, caplog, damage):
    Run(tiny_encoder, epochs=1).train(RunRecordHandler(tmp_path, interval=2))
    file = tmp_path / "history.jsonl"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    go_on(tiny_encoder, tmp_path, lines=3)
    lost = 3 if damage == "gone" else 1
    assert f"history.jsonl: {lost} of the 3 records that the run had written are not there or damaged" in caplog.text
    assert [step for _, step in steps(tmp_path)] == [*[1, 2, 4][: 3 - lost], 6, 8]
