"""Small answers that the pre-training configs ask for."""

import gc
import os
from pathlib import Path

import pytest
import torch
from torch import distributed

from desd_components import (
    CosineSchedule,
    DenseDistillationNetwork,
    ResumeHandler,
    RunRecordHandler,
    SkipNonFiniteHandler,
    Steps,
    TeacherEMAHandler,
    UserError,
    decay_groups,
    distributed_network,
    joined_processes,
    leave_processes,
    scheduled_epochs,
    warn_of_equal_boxes,
)


def test_weight_decay_spares_biases_norms_and_the_teacher(tiny_encoder):
    network = DenseDistillationNetwork(tiny_encoder, 8, 4, head_hidden=8, head_bottleneck=8)
    kernels, vectors = decay_groups(network, 0.1)
    assert (kernels["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in kernels["params"])
    assert all(p.ndim == 1 for p in vectors["params"])
    wanted = {id(p) for p in network.student.parameters()}
    assert {id(p) for group in (kernels, vectors) for p in group["params"]} == wanted


@pytest.mark.parametrize(("batches", "epochs", "accumulation", "steps"), [(4, 3, 1, 12), (4, 3, 2, 6), (5, 2, 2, 6)])
def test_optimiser_steps_count_a_short_last_accumulation(batches, epochs, accumulation, steps):
    counted = Steps(batches, 2, epochs, accumulation)
    assert (counted.total, counted.of_epochs(1)) == (steps, steps // epochs)


def test_a_share_of_the_steps_is_below_all_of_them():
    assert Steps(47, 1, 1).share(0.1) == 5
    with pytest.raises(UserError, match="1 of the steps: give a share of the run"):
        Steps(10, 1, 1).share(1)


def test_without_data_schedules_can_be_built_and_looked_at():
    assert CosineSchedule(0.1, 0.0, Steps(0, 4, 300).total, Steps(0, 4, 300).of_epochs(10))(0) == 0.1


def test_the_published_learning_rate_comes_out_at_the_published_batch():
    assert Steps(1, batch_size=32, max_epochs=1, accumulation_steps=6).scaled(0.3) == pytest.approx(0.225)
    assert Steps(1, batch_size=8, max_epochs=1, accumulation_steps=3).volumes == 24


def test_several_processes_want_torchrun(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match="needs torchrun"):
        joined_processes()
    assert not torch.distributed.is_initialized()


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"2 are here\. Give torchrun --nproc_per_node=2"):
        joined_processes()


class Boxes:
    """A dataset of contexts, all of one size."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return 7

    def box(self, index):
        return 0, tuple(slice(3, 3 + side) for side in self.size)


@pytest.mark.parametrize(("size", "warned"), [((96, 96, 24), False), ((96, 96, 17), True), ((80, 90, 16), True)])
def test_contexts_that_are_no_larger_than_a_view_are_warned_of(size, warned, caplog):
    warn_of_equal_boxes(Boxes(size), (96, 96, 16))
    assert ("nearly the same box" in caplog.text) is warned


@pytest.fixture
def group_of_one(monkeypatch):
    """What torchrun tells a single process without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = {"LOCAL_RANK": 0, "RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))


def group_threads():
    """The native threads that work for process groups, by what PyTorch calls them."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def test_no_thread_of_the_group_is_left_although_its_network_is_kept(group_of_one):
    # such a thread may want Python while that is ending: the process then aborts, or hangs
    gc.collect()
    before = len(group_threads())
    joined_processes()
    network = distributed_network(torch.nn.Linear(3, 2), "cpu")
    network(torch.randn(4, 3)).sum().backward()
    assert len(group_threads()) > before
    leave_processes()
    assert len(group_threads()) == before and not torch.distributed.is_initialized()
    assert isinstance(network.module, torch.nn.Linear)


def test_gradients_lie_in_the_buffers_that_processes_send(group_of_one):
    joined_processes()
    network = distributed_network(torch.nn.Linear(3, 2), "cpu")
    for _ in range(2):
        network(torch.randn(4, 3)).sum().backward()
        weight, bias = network.module.parameters()
        assert weight.grad.untyped_storage().data_ptr() == bias.grad.untyped_storage().data_ptr()
        weight.grad = None  # as frozen prototypes lose theirs
    leave_processes()


def test_in_a_slurm_job_the_local_rank_stays_torchruns_and_not_sruns(monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    for name, value in {"LOCAL_RANK": "1", "SLURM_JOB_ID": "7", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    joined_processes()
    assert "SLURM_JOB_ID" not in os.environ, "by which Ignite decides to overwrite LOCAL_RANK"
    assert os.environ["LOCAL_RANK"] == "1"


REFUSED = {
    "accumulation_steps": (lambda value: Steps(4, 1, 1, value), [0, -1, 1.5, "two"]),
    "batch_size": (lambda value: Steps(4, value, 1), [0, 1.5, "x", True]),
    "weight_decay": (lambda value: decay_groups(torch.nn.Linear(2, 2), value), [-1, float("nan")]),
    "record_interval": (lambda value: RunRecordHandler("runs", interval=value), [0, -1, 1.5]),
    "save_interval": (lambda value: ResumeHandler("runs", {}, {}, interval=value), [0, -1, 1.5]),
    "max_epochs": (lambda value: scheduled_epochs("runs", "never", None, value), [-1, 1.5, "ten"]),
    "teacher_momentum": (lambda value: TeacherEMAHandler(None, lambda step: value), [-0.1, 1.1]),
    "max_skipped_steps": (lambda value: SkipNonFiniteHandler([], value), [0]),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, values) in REFUSED.items() for value in values]
)
def test_numbers_that_mean_nothing_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=rf"^{name}={value!r}"):
        REFUSED[name][0](value)


@pytest.mark.parametrize("name", ["num_prototypes", "head_hidden", "head_bottleneck", "dense_prototypes"])
def test_sizes_of_heads_that_are_none_are_refused_by_name(tiny_encoder, name):
    with pytest.raises(UserError, match=f"^{name}=-1: give a whole number"):
        DenseDistillationNetwork(tiny_encoder, **{"num_prototypes": 8, "dense_prototypes": 8, name: -1})
