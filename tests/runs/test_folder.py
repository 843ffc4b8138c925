"""The run's folder as one component: in which order it records."""

import torch
from bundle_runs import history
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from desd_components import RunFolder


class Counter:
    """A part of a run with a figure."""

    def __init__(self) -> None:
        self.count = 0

    def attach(self, engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        self.count += 1

    def scalars(self):
        return {"count": float(self.count)}


def test_figures_are_recorded_after_the_other_handlers_of_an_iteration(tmp_path):
    network, counter = torch.nn.Linear(2, 1), Counter()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    run_folder = RunFolder(tmp_path, {"network": network, "counter": counter, "absent": None}, record_interval=1)
    loader = torch.utils.data.DataLoader([{"image": torch.ones(2), "label": torch.ones(1)} for _ in range(4)])
    run_folder.open("cpu", {}, len(loader))
    SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=loader, network=network, optimizer=optimizer,
        loss_function=torch.nn.MSELoss(), train_handlers=[run_folder, counter], decollate=False,
    ).run()  # fmt: skip
    assert [record["count"] for record in history(tmp_path)] == [1, 2, 3, 4]
