"""Plans: the numbers of a recipe that suit a folder of scans, a machine and a budget of minutes, each with its reason.

Grid, window, network and number of steps are one decision. A window must see the organ, a run needs some hundred steps,
and a machine gets through so many voxels a minute; so the grid is as fine as these three leave it. The same folder, the
same minutes and the same machine give the same plan. Ours; nnU-Net (Isensee et al., Nature Methods 2021) plans for a
GPU's memory and a fixed number of steps.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...base.errors import UserError, none_if_null
from ...base.files import write_json
from ...base.processes import place
from ..names import Scan
from .machine import Machine
from .planner import CROPS, EPOCHS, GIVEN, Given, Plan, Planner, none_given, single_classes, turning
from .survey import Survey, survey

logger = logging.getLogger(__name__)

VIEWS, VIEW_STEPS = 8, 800  # volumes of a pre-training step, and steps for which a view leaves room
VIEW_COST = 5.0  # of two views through student and teacher, in crops of that size
PROTOTYPES = (64, 1024)
PLAN_FILE = "plan.json"  # in a run's folder
CONTEXT = (1.2, 1.5)  # of a view: the box that both views come from


def planning(plan: Any) -> bool:
    """Whether there is to be a plan.

    Raises:
        UserError: when the word is neither "auto" nor null.
    """
    plan = none_if_null(plan)
    if plan not in (None, "auto"):
        raise UserError(f"plan={plan!r}: choose auto, or null for the numbers of the config.")
    return plan is not None


def announce_plan(plan: Plan, output_dir: str | Path) -> None:
    """Say in the log, and in ``plan.json``, what was planned and why, and what a person should look at.

    Raises:
        UserError: when there is a plan that nothing asks.
    """
    if plan.numbers and all(reason == GIVEN for _, reason in plan.numbers.values()):
        raise UserError(
            "plan=auto, but the config gives every number itself: put small.yaml on top, or set plan: null."
        )
    for line in plan.lines():
        logger.info("plan: %s", line)
    if plan.numbers and place()[0] == 0:
        record = {name: {"value": value, "why": why} for name, (value, why) in plan.numbers.items()}
        write_json(Path(output_dir).expanduser() / PLAN_FILE, record)
    for line in plan.remarks:
        logger.warning("%s", line)


def make_plan(
    kind: str,
    plan: str | None,
    scans: Sequence[Scan],
    dataset_dir: str | Path,
    minutes: float | None = None,
    given: Given = none_given,
    device: torch.device | str = "cpu",
    cache_dir: str | Path = "runs/cache",
    known: Mapping[str, Any] | None = None,
    num_workers: int = 2,
    ignore: int | None = None,
) -> Plan:
    """The plan of a training. Pre-training and fine-tuning of one folder in one time agree on grid and encoder.

    Args:
        kind: "pretraining" or "segmentation".
        plan: "auto"; None plans nothing.
        scans: to train on, which are surveyed.
        dataset_dir: where they come from.
        minutes: the budget; None plans windows for ten minutes, and sets no end.
        given: what is not to be planned; such as `given_number`.
        device: of the network.
        cache_dir: where survey and speed are kept.
        known: the manifest of pre-trained weights: their preprocessing and architecture hold.
        num_workers: threads of the survey.
        ignore: label value of voxels that were not annotated.

    Raises:
        UserError: when `plan` is neither, or the budget is too short for `LEAST_STEPS` steps.
    """
    if not planning(plan) or not scans:
        return Plan()
    machine = Machine.of(device, cache_dir, minutes)
    planned = planned_pretraining if kind == "pretraining" else planned_segmentation
    return planned(survey(scans, dataset_dir, cache_dir, num_workers, ignore), machine, given, known)


def planned_segmentation(
    seen: Survey, machine: Machine, given: Given = none_given, known: Mapping[str, Any] | None = None
) -> Plan:
    """The plan of a fine-tuning on surveyed scans; see `make_plan`. Empty where no scan can be read."""
    if not seen.scans:
        return Plan()
    planner = Planner(seen, machine, given, known or {})
    window = planner.put("roi_size", *planner.window()) or planner.window()[0]  # null, where a manifest says it
    planner.architecture("network_def#encoder#scratch_architecture", window)
    batch = planner.put("batch_size", CROPS, "crops of a step")
    planner.epochs(machine.steps(batch, window, planner.cost), batch, "crops")
    planner.put("val_interval", None, "once, after the last epoch: the minutes are for training")
    planner.put("amp", machine.amp, f"bfloat16 {'is faster than float32' if machine.amp else 'gains nothing'} here")
    why = "classes of one connected piece in the labels: smaller pieces are taken off"
    planner.put("single", single_classes(seen), why)
    planner.put("rotation", turning(planner.spacing), "radians about x, y, z; little where thin and thick axes mix")
    return planner.plan


def planned_pretraining(
    seen: Survey, machine: Machine, given: Given = none_given, known: Mapping[str, Any] | None = None
) -> Plan:
    """The plan of a pre-training on surveyed scans; see `make_plan`. Empty where no scan can be read."""
    if not seen.scans:
        return Plan()
    planner = Planner(seen, machine, given, known or {})
    planner.architecture("network_def#scratch_architecture", planner.window()[0])
    batch = planner.put("batch_size", max(2, min(VIEWS, 2 ** int(math.log2(len(seen.scans))))), "volumes of a step")
    view = planner.put("view_size", *planner.view(machine.window(VIEW_STEPS, batch, VIEW_COST, planner.cost)))
    scales = context_scales(view, planner.small())
    planner.put("context_scale", scales, "of the view, within the smallest volumes", "train#dataset#context_scale")
    samples = planner.epochs(machine.steps(batch, view, VIEW_COST * planner.cost), batch, "contexts")
    planner.put("val_interval", EPOCHS // 4, "epochs between two label-free scores: four in all")
    low, high = PROTOTYPES
    prototypes = max(low, min(high, 2 ** int(math.log2(max(1, samples / 4)))))
    planner.put("num_prototypes", prototypes, f"K: a quarter of an epoch's samples, from {low} to {high}")
    return planner.plan


def context_scales(view: Sequence[int], small: np.ndarray) -> list[list[float]]:
    """Per axis, how much larger than a view the box is that both views come from; never beyond the small volumes."""
    highs = [min(CONTEXT[1], math.floor(20 * extent / size) / 20) for extent, size in zip(small, view, strict=True)]
    return [[min(CONTEXT[0], max(high, 1.0)), max(high, 1.0)] for high in highs]
