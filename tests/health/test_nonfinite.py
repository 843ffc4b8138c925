"""A step that is not finite is as if it had never been."""

import copy
import logging
import math
import re

import pytest
import torch
from bundle_runs import history
from forked_runs import overlay, run_forked
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from scan_files import write_pairs
from states import leaves, same
from tiny_pretraining import Run

from desd_components import (
    CosineSchedule,
    FreezePrototypesHandler,
    LearningRateHandler,
    SkipNonFiniteHandler,
    TeacherEMAHandler,
    UserError,
)
from desd_components.health.skipping import all_finite, batch_files

NAN = math.nan


class Watched:
    """A run whose whole state is looked at after every optimiser step's last batch."""

    def __init__(self, encoder, max_skipped_steps=5, **settings):
        self.run = Run(encoder, **settings)
        self.skips = SkipNonFiniteHandler([self.run.network, self.run.loss], max_skipped_steps)
        self.rate = LearningRateHandler(self.run.optimizer, CosineSchedule(0.1, 0.01, total_steps=99))
        self.teacher = TeacherEMAHandler(self.run.network, lambda step: 0.9)
        self.states = []

    def train(self, *more):
        freeze = FreezePrototypesHandler(self.run.network, 0)
        self.run.train(self.rate, self.teacher, freeze, self.skips, *more, self)
        return self

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED | Events.ITERATION_COMPLETED, self._look)

    def _look(self, engine):
        parts = (self.run.network, self.run.optimizer, self.run.loss, self.rate, self.teacher)
        self.states.append(copy.deepcopy([part.state_dict() for part in parts]))

    def unchanged(self, before, after):
        """Whether the states after two batches, counted from 1 (0: the start), are the same, bit for bit."""
        return identical(self.states[before], self.states[after])


def identical(one, other):
    """Bit for bit, and of more than nothing."""
    a, b = dict(leaves(one)), dict(leaves(other))
    return len(a) > 100 and set(a) == set(b) and all(same(a[name], b[name]) for name in a)


class Spoil:
    """Make the gradient of one parameter something else after the backward pass of an iteration."""

    def __init__(self, run, value, iteration):
        self.parameter, self.value, self.iteration = next(run.network.student.parameters()), value, iteration

    def attach(self, engine):
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine):
        if engine.state.iteration == self.iteration:
            self.parameter.grad[0, 0, 0, 0, 0] = self.value


def test_a_loss_that_is_not_finite_leaves_everything_as_it_was_before_its_step(tiny_encoder):
    watched = Watched(tiny_encoder, epochs=1)
    watched.run.batches[1][0] = NAN
    watched.train()
    assert watched.unchanged(1, 2)
    assert not watched.unchanged(0, 1)
    assert not watched.unchanged(2, 3)
    assert watched.skips.scalars() == {"skipped_steps": 1}
    assert watched.rate.step == watched.teacher.step == 3


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_left_out_too(tiny_encoder, value):
    watched = Watched(tiny_encoder, epochs=1)
    handlers = (watched.rate, watched.teacher, Spoil(watched.run, value, 2), watched.skips, watched)
    watched.run.train(*handlers)
    assert watched.unchanged(1, 2)
    assert watched.skips.skipped == 1


@pytest.mark.parametrize("bad", [0, 1])
def test_under_accumulation_a_step_goes_with_all_of_its_batches(tiny_encoder, bad):
    watched = Watched(tiny_encoder, accumulation_steps=2, epochs=1)
    watched.run.batches[bad][0] = NAN
    watched.train()
    assert watched.unchanged(0, 2)
    assert not watched.unchanged(2, 4)
    assert watched.teacher.step == watched.skips.skipped == 1


def test_a_run_without_such_a_step_is_bit_for_bit_the_one_without_the_handler(tiny_encoder):
    with_it, without = Watched(copy.deepcopy(tiny_encoder)), Watched(tiny_encoder)
    without.run.network.load_state_dict(with_it.run.network.state_dict())
    without.run.batches = with_it.run.batches
    with_it.train()
    without.run.train(without.rate, without.teacher, FreezePrototypesHandler(without.run.network, 0), without)
    assert identical(with_it.states[-1], without.states[-1])


def test_so_many_in_a_row_end_the_run_with_its_state_untouched(tiny_encoder):
    watched = Watched(tiny_encoder, max_skipped_steps=2, batches=6, epochs=1)
    for number in (1, 3, 4):
        watched.run.batches[number][0] = NAN
    with pytest.raises(UserError, match=r"iteration 5: the loss is not finite.*number 2 in a row.*amp: false"):
        watched.train()
    assert watched.unchanged(3, 4)
    again = SkipNonFiniteHandler([watched.run.network])
    again.load_state_dict(watched.skips.state_dict())
    assert (again.skipped, again.in_a_row) == (watched.skips.skipped, watched.skips.in_a_row) == (3, 2)


def test_the_files_of_the_batches_to_blame_are_named_and_no_others(tiny_encoder, caplog):
    watched = Watched(tiny_encoder, accumulation_steps=2, epochs=1)
    watched.run.batches[0][0] = NAN
    names = iter(["a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz"])
    for place, batch in enumerate(watched.run.batches):
        meta = {"filename_or_obj": [next(names)]}
        watched.run.batches[place] = {"image": MetaTensor(batch, meta=meta)}
    prepare = lambda batch, *_, **__: ([batch["image"].as_tensor(), batch["image"].as_tensor().flip(2)], None)  # noqa: E731
    with caplog.at_level(logging.WARNING):
        watched.run.settings["prepare_batch"] = prepare
        watched.train()
    (record,) = [record for record in caplog.records if "not finite" in record.message]
    assert "a.nii.gz" in record.message
    assert "b.nii.gz" not in record.message


def test_a_batch_of_contexts_names_its_volumes_by_their_records():
    batch = {"image": torch.zeros(3, 1, 2, 2, 2), "volume": torch.tensor([2, 0, 2])}
    records = [{"image": "a.nii"}, {"image": "b.nii"}, {"image": ["c_t1.nii", "c_t2.nii"]}]
    assert batch_files(batch, records) == ["c_t1.nii", "a.nii", "c_t1.nii"]
    assert batch_files([torch.zeros(2)]) == []


class UseScaler:
    """Give a trainer a scaler when it starts."""

    def __init__(self, scaler):
        self.scaler = scaler

    def attach(self, engine):
        def give():
            engine.amp, engine.scaler = True, self.scaler

        engine.add_event_handler(Events.STARTED, give)


def test_a_scaler_searches_its_scale_without_counting_towards_the_end_of_the_run(tiny_encoder):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-8)  # the loss times that is infinite
    watched = Watched(tiny_encoder, max_skipped_steps=1, batches=12, epochs=1)
    watched.train(UseScaler(scaler))
    assert 1 < watched.skips.skipped < 12
    assert watched.unchanged(0, watched.skips.skipped)
    assert watched.teacher.step == 12 - watched.skips.skipped
    assert watched.skips.in_a_row == 0


def test_with_a_scaler_a_loss_that_is_not_finite_still_counts(tiny_encoder):
    watched = Watched(tiny_encoder, max_skipped_steps=1, epochs=1)
    watched.run.batches[1][0] = NAN
    with pytest.raises(UserError, match="the loss is not finite"):
        watched.train(UseScaler(torch.amp.GradScaler("cpu", init_scale=8.0)))


def test_no_finite_number_is_too_large_to_be_finite():
    assert all_finite([torch.tensor([3e38, -3e38]), torch.tensor(1.0)])
    assert not all_finite([torch.ones(3), torch.tensor([0.0, -math.inf])])
    assert not all_finite([torch.tensor(NAN), torch.ones(3)])


def test_two_processes_leave_out_the_step_that_one_of_them_spoils(tmp_path):
    write_pairs(tmp_path / "scans", [f"case_{number}" for number in range(8)], shape=(16, 17, 16))
    spoil = {"_target_": "interruptions.SpoilBatch", "iteration": 2, "rank": 1}
    spoil |= {"network": "@distillation_def", "loss": "@loss"}
    more = overlay(tmp_path / "spoil.yaml", spoil)
    settings = {"dataset_dir": tmp_path / "scans", "cache_dir": tmp_path / "cache"}
    run = tmp_path / "run"
    codes = run_forked("desd_pretrain", "train smoke multi_gpu_train", run, more, processes=2, **settings)
    said = [(tmp_path / f"run_{rank}.txt").read_text() for rank in (0, 1)]
    assert codes == [0, 0], said
    counts = [re.search(r"spoilt step: (\d+) tensors, changed: (\d+)", words).groups() for words in said]
    assert counts[0] == counts[1]
    assert int(counts[0][0]) > 100
    assert int(counts[0][1]) == 0
    assert [record["skipped_steps"] for record in history(run)[:3] if "loss" in record] == [0, 1]
    assert re.search(r"iteration 2: the loss is not finite.*case_\d.*nii", (run / "train.log").read_text())
