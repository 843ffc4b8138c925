"""The run's folder as one component: what it restores, records and saves, and in which order."""

import pytest
import torch
from bundle_runs import history
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from desd_components import RunFolder, UserError


class Counter:
    """A part of a run with a state and a figure."""

    def __init__(self) -> None:
        self.count = 0

    def attach(self, engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        self.count += 1

    def scalars(self):
        return {"count": float(self.count)}

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state) -> None:
        self.count = state["count"]


def trained(folder, epochs, counter, **options):
    """A trainer of four steps an epoch, its folder the first of its handlers."""
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    parts = {"network": network, "optimizer": optimizer, "counter": counter, "absent": None}
    run_folder = RunFolder(folder, parts, {"max_epochs": 3}, record_interval=1, **options)
    data = [{"image": torch.ones(2), "label": torch.ones(1)} for _ in range(4)]
    loader = torch.utils.data.DataLoader(data)
    run_folder.open("cpu", {}, len(loader))
    SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=loader, network=network, optimizer=optimizer,
        loss_function=torch.nn.MSELoss(), train_handlers=[run_folder, counter], decollate=False,
    ).run()  # fmt: skip
    return network


def test_figures_are_recorded_after_the_other_handlers_of_an_iteration(tmp_path):
    trained(tmp_path, 1, Counter())
    assert [record["count"] for record in history(tmp_path)] == [1, 2, 3, 4]


def test_a_run_goes_on_with_all_parts_and_the_history_of_before(tmp_path):
    whole = trained(tmp_path / "whole", 2, Counter())
    trained(tmp_path / "run", 1, Counter())
    counter = Counter()
    again = trained(tmp_path / "run", 2, counter)
    assert counter.count == 8
    assert [record["count"] for record in history(tmp_path / "run")] == list(range(1, 9))
    torch.testing.assert_close(again.weight, whole.weight, rtol=0, atol=0)


def test_a_refused_run_replaces_no_record(tmp_path):
    trained(tmp_path, 1, Counter())
    before = (tmp_path / "environment.json").read_bytes()
    with pytest.raises(UserError, match="saved and present parts differ in counter, more"):
        RunFolder(tmp_path, {"more": Counter()}, {"max_epochs": 3}).open("cpu", {}, 4)
    assert (tmp_path / "environment.json").read_bytes() == before
