"""Steps rehearsed on a device that is not the CPU: no tensor lies on the wrong one, and every wait for it is known.

A wait lets a GPU run dry while Python catches up. What stands here is the most that each place may wait in a step;
fewer is welcome.
"""

from collections import Counter

import pytest
import torch
from bundle_runs import config_files
from far_device import FAR, far_device
from ignite.engine import Events
from monai.bundle import ConfigParser

from desd_tools.studies.phantom.phantom import write_family

LOOK = 4  # at every fourth step the monitor looks; every tenth in the recipes
# place: waits of a step, at most
SKIPPING = {"health/skipping.py SkipNonFiniteHandler._is_finite: number": 1}
LOOKING = {
    "health/monitor.py DistillationMonitor._look_at_features.<locals>.<listcomp>: copy back": 4,
    "health/alarms.py _weighed_stages: copy back": 1,
    "health/measures.py gradient_norm: number": 12,
    "health/measures.py Movement.since_last: number": 6,
    "health/measures.py relative_distance: number": 1,
    "distillation/loss.py DeepSelfDistillationLoss.scalars: number": 4,
    "distillation/loss.py DeepSelfDistillationLoss.scalars: copy back": 2,
}
WINDOWS = {  # of eight windows, four at once
    "segmentation/inference.py SkipAirInferer.__call__.<locals>.predicted: copy back": 4,
    "base/arithmetic.py AutocastInferer.__call__: copy back": 3,
    "base/arithmetic.py AutocastInferer.__call__: number": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("far") / "data", 4, 0, 0, 24)


def parser_of(bundle, names, folder, **settings):
    """A bundle's config on the far device."""
    parser = ConfigParser()
    parser.read_config(config_files(bundle, *names.split()))
    places = {"output_dir": str(folder / "run"), "cache_dir": str(folder / "cache")}
    for name, value in {"device": f"$torch.device('{FAR}')", **places, **settings}.items():
        parser[name] = value
    parser.parse()
    return parser


def waits_of_steps(bundle, names, folder, **settings):
    """Iteration -> where its step waited, for as many steps as a look of the monitor is away."""
    found = {}
    with far_device() as waits:
        unfused = {"optimizer#fused": False}  # for fused kernels want data
        parser = parser_of(bundle, names, folder, samples_per_epoch=16, **unfused, **settings)
        parser.get_parsed_content("network")  # first: moving parameters to this device makes new ones
        trainer = parser.get_parsed_content("train#trainer")
        trainer.interrupt_resume_enabled = True
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda: waits.places.clear())
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: found.update({trainer.state.iteration: Counter(waits.places)})
        )
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=LOOK), trainer.interrupt)
        trainer.run()
    network = parser.get_parsed_content("network")
    assert {tensor.device for tensor in network.state_dict().values()} == {FAR}
    return found


def assert_at_most(found, known):
    more = {place: count for place, count in found.items() if count > known.get(place, 0)}
    assert not more, f"waits that were not there before, or more of them: {more}"


@pytest.mark.parametrize("names", ["train smoke", "train small smoke"])
def test_a_pretraining_step_waits_where_it_is_known_to(names, data, tmp_path):
    settings = {"dataset_dir": str(data / "imagesTr"), "run_folder#record_interval": LOOK}
    found = waits_of_steps("desd_pretrain", names, tmp_path, **settings)
    for iteration in range(2, LOOK):
        assert_at_most(found[iteration], SKIPPING)
    assert_at_most(found[LOOK], SKIPPING | LOOKING)


def test_a_finetuning_step_waits_where_it_is_known_to(data, tmp_path):
    settings = {"dataset_dir": str(data), "data_split": str(data / "splits.json")}
    for found in waits_of_steps("desd_seg_finetune", "train small smoke", tmp_path, **settings).values():
        assert_at_most(found, SKIPPING)


def test_windows_of_a_scan_wait_where_they_are_known_to(data, tmp_path):
    with far_device() as waits:
        parser = parser_of("desd_seg_finetune", "inference", tmp_path, dataset_dir=str(data / "imagesTr"), page=False)
        network, inferer = (parser.get_parsed_content(name) for name in ("network", "inferer"))
        volume = torch.randn(1, 1, 48, 48, 48).to(FAR)
        waits.places.clear()
        logits = inferer(volume, network.eval())
    assert logits.shape == (1, 3, 48, 48, 48) and logits.device.type == "cpu"  # where they are stitched
    assert_at_most(waits.places, WINDOWS)


def test_a_tensor_on_the_wrong_device_is_found_and_each_wait_is_counted():
    with far_device() as waits:
        far, near = torch.ones(2, device=FAR), torch.ones(2)
        with pytest.raises(RuntimeError, match="device"):
            far + near
        assert not waits.places
        float(far.sum()), far.cpu(), near.to(FAR), far[far > 0], near.to(FAR, non_blocking=True)
        with torch.autocast(FAR.type), torch.no_grad():
            far.normal_(generator=torch.Generator(FAR))
    kinds = Counter(place.rpartition(": ")[2] for place in waits.places.elements())
    assert kinds == {"number": 1, "copy back": 1, "copy there": 1, "choice": 1}
