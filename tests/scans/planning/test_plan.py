"""Plans: the same for the same folder and machine, finer with more minutes, with a reason each; what is given wins."""

import math
import re

import numpy as np
import pytest

from desd_components import Plan, UserError, announce_plan, make_plan
from desd_components.base.files import read_json
from desd_components.base.steps import checked_minutes
from desd_components.scans.planning.machine import Machine
from desd_components.scans.planning.plan import planned_pretraining, planned_segmentation
from desd_components.scans.planning.planner import single_classes, turning
from desd_components.scans.planning.survey import Survey, Surveyed, Values

MR = Values(0.0, 900.0, (5.0, 200.0, 800.0), 0.0, 0.0)


def machine(minutes: float | None = 10, speed: float = 5e5, memory: float = 16e9, amp: bool = True) -> Machine:
    return Machine(51 * (minutes or 10), speed, memory, "2 CPU threads", minutes, amp)


def hearts(labelled: bool = True, count: int = 8) -> Survey:
    """Thick slices of a chest, the heart a third of each."""
    boxes = {0: (80, 80, 9), 1: (60, 60, 9), 2: (40, 40, 8)} if labelled else {}
    pieces = {1: 1.0, 2: 0.7} if labelled else {}
    heart = Surveyed("heart.nii.gz", (216, 256, 9), (1.5, 1.5, 10.0), MR, boxes, pieces)
    return Survey([heart] * count, "MRI")


def given(**numbers):
    return lambda entry: [numbers[entry]] if entry in numbers else []


def test_a_plan_names_every_number_that_small_yaml_asks_for_with_a_reason_and_always_the_same():
    plan = planned_segmentation(hearts(), machine())
    asked = "max_epochs samples_per_epoch batch_size val_interval spacing intensity roi_size rotation single amp"
    assert {*asked.split(), "architecture"} == plan.settings().keys()
    assert all(reason for _, reason in plan.numbers.values())
    assert planned_segmentation(hearts(), machine()) == plan


def test_the_reason_of_a_grid_says_the_voxels_of_its_window_in_plain_digits():
    _, why = planned_segmentation(hearts(), machine(2)).numbers["spacing"]
    assert re.search(r"coarser than the scans, so that a window of \d[\d,]+ voxels shows", why), why


def test_more_minutes_give_a_finer_grid_or_a_larger_window():
    short, long = (planned_segmentation(hearts(), machine(minutes)).settings() for minutes in (2, 20))
    assert short["spacing"][0] > 1.5
    assert long["spacing"] is None or long["spacing"][0] < short["spacing"][0]
    assert math.prod(long["roi_size"]) > math.prod(short["roi_size"])


@pytest.mark.parametrize(("speed", "is_own", "least", "most"), [(1e5, False, 400, 650), (2e6, True, 1000, 2000)])
def test_a_grid_coarser_than_the_scans_is_finer_for_half_the_steps(speed, is_own, least, most):
    plan = planned_segmentation(hearts(), machine(speed=speed)).settings()
    steps = plan["samples_per_epoch"] * plan["max_epochs"] / plan["batch_size"]
    assert (plan["spacing"] is None) == is_own and least <= steps <= most


def test_what_is_given_wins_and_the_rest_is_planned_around_it():
    plan = planned_segmentation(hearts(), machine(), given(spacing=[3.0, 3.0, 10.0], batch_size=4))
    assert plan.numbers["spacing"] == ([3.0, 3.0, 10.0], "given") and plan.get("batch_size") == 4
    assert plan.get("roi_size")[0] <= 216 * 1.5 / 3.0 + 4
    assert plan.get("samples_per_epoch") % 4 == 0


def test_pretrained_weights_decide_grid_intensity_and_encoder():
    before = {"spacing": [2.0, 2.0, 8.0], "intensity": "hu", "hu_window": [-200.0, 300.0]}
    known = {"preprocessing": before, "architecture": {"depth": 18}}
    plan = planned_segmentation(hearts(), machine(), known=known).settings()
    assert {name: plan[name] for name in before} == before and plan["architecture"] == {"depth": 18}


def test_weights_that_saw_any_grid_leave_it_to_the_plan():
    known = {"preprocessing": {"intensity": "zscore", "hu_window": None}, "architecture": {"depth": 18}}
    plan = planned_segmentation(hearts(), machine(), known=known).settings()
    assert plan["intensity"] == "zscore"
    assert plan["spacing"] == planned_segmentation(hearts(), machine()).settings()["spacing"]


def test_pretraining_and_fine_tuning_of_one_folder_agree():
    plans = [plan(hearts(), machine()).settings() for plan in (planned_pretraining, planned_segmentation)]
    for name in ("spacing", "intensity", "architecture"):
        assert plans[0][name] == plans[1][name]


def test_views_are_smaller_than_the_volumes_and_their_boxes_within_them():
    plan = planned_pretraining(hearts(labelled=False, count=40), machine()).settings()
    extents = np.array([216, 256, 9]) * [1.5, 1.5, 10.0] / (plan["spacing"] or [1.5, 1.5, 10.0])
    assert (np.array(plan["view_size"]) * 1.2 < extents).all()
    for (low, high), view, extent in zip(plan["context_scale"], plan["view_size"], extents, strict=True):
        assert 1 <= low <= high <= 1.5 and view * high <= extent + 1
    assert plan["max_epochs"] >= 2 and plan["num_prototypes"] >= 64


def test_little_memory_makes_windows_smaller():
    much, little = (planned_segmentation(hearts(), machine(memory=bytes_)) for bytes_ in (16e9, 0.3e9))
    assert math.prod(little.get("roi_size")) < math.prod(much.get("roi_size")) / 2


def test_a_machine_without_memory_for_the_smallest_window_or_a_plan_without_steps_is_refused():
    with pytest.raises(UserError, match="2 CPU threads: 20 MB of memory are free, too little"):
        planned_segmentation(hearts(), machine(memory=20e6))
    for plan in (planned_pretraining, planned_segmentation):
        with pytest.raises(UserError, match=r"minutes=0\.2: leaves about \d+ steps on 2 CPU threads.*: give \d+\."):
            plan(hearts(), machine(0.2, speed=1e4))


@pytest.mark.parametrize("minutes", [0, -1, True, "ten", math.inf, math.nan])
def test_a_budget_that_is_no_number_above_0_is_refused(minutes):
    with pytest.raises(UserError, match="give a number above 0"):
        checked_minutes(minutes)


def test_without_scans_or_without_a_plan_nothing_is_planned_and_other_words_are_refused(tmp_path):
    assert make_plan("segmentation", "auto", [], tmp_path).get("spacing", "as written") == "as written"
    assert make_plan("segmentation", None, [{"image": "a.nii.gz"}], tmp_path).numbers == {}
    with pytest.raises(UserError, match="choose auto, or null"):
        make_plan("segmentation", "yes", [], tmp_path)


def test_the_plan_is_kept_with_its_reasons_and_one_that_nothing_asks_for_is_refused(tmp_path):
    announce_plan(planned_segmentation(hearts(), machine()), tmp_path)
    kept = read_json(tmp_path / "plan.json")
    assert kept["intensity"]["value"] == "zscore" and "MRI" in kept["intensity"]["why"]
    announce_plan(Plan(), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"put small\.yaml on top"):
        announce_plan(Plan({"spacing": (None, "given"), "roi_size": ([8, 8, 8], "given")}), tmp_path)


def test_rotations_do_not_mix_thin_and_thick_axes():
    assert turning(np.ones(3)) == [0.2, 0.2, 0.3]
    x, y, z = turning(np.array([1.0, 1.0, 8.0]))
    assert x == y < 0.01 and z == 0.3
    assert turning(np.array([8.0, 1.0, 1.0]))[0] == 0.2


def test_classes_of_one_piece_are_known_from_three_labels_on():
    assert single_classes(hearts()) == [1]
    assert single_classes(hearts(count=2)) == []
