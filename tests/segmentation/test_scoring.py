"""Promises of `desd_components.segmentation.scores`."""

import json
import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from desd_components.base.classes import IGNORE
from desd_components.base.statistics import dice_score
from desd_components.scans.names import CaseNames
from desd_components.scans.volume import voxel_size
from desd_components.segmentation.scores import (
    MetricsReportHandler,
    SegmentationScores,
    case_scores,
    hd95_score,
    mean_scores,
    metrics_table,
)

NAMES = ["background", "liver", "tumour"]
SPACING = (1.0, 2.0, 3.5)


def test_dice_of_two_boxes_can_be_said_in_the_head():
    a, b = torch.zeros(4, 4, 4, dtype=torch.bool), torch.zeros(4, 4, 4, dtype=torch.bool)
    a[:2], b[1:3] = True, True  # two slabs of 32 voxels that share 16
    assert dice_score(a, b) == 0.5


def test_hd95_is_the_distance_in_mm_that_all_but_a_twentieth_of_a_surface_keeps():
    a, b = torch.zeros(2, 81, 9, 9, dtype=torch.bool)
    a[::2, 2, 2], b[::2, 2, 5] = True, True  # 41 single voxels, 3 voxels of 3.5 mm apart
    assert hd95_score(a, b, SPACING) == pytest.approx(3 * 3.5)
    strayed = torch.cat([a[:1], b[1:]])  # one of them
    assert hd95_score(b, strayed, SPACING) == hd95_score(strayed, b, SPACING) == 0
    assert math.isnan(hd95_score(a, torch.zeros_like(a), SPACING))


@pytest.mark.parametrize(("found", "dice"), [(0, math.nan), (2, 0.0)])
def test_a_class_absent_in_the_reference_has_no_score_unless_it_is_found(found, dice):
    prediction = torch.zeros(1, 3, 3, 3)
    prediction[0, 0, 0, 0] = found
    scores = case_scores(prediction, torch.zeros(1, 3, 3, 3), NAMES, SPACING)
    assert scores["dice"]["tumour"] == pytest.approx(dice, nan_ok=True) and math.isnan(scores["hd95"]["tumour"])


def test_a_region_is_scored_as_it_was_trained_with_what_lies_in_it():
    reference, found = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    reference[0, :2], reference[0, 0] = 1, 2  # an organ of 32 voxels, half of them tumour
    found[0, :2] = 1  # the organ is found, the tumour is not
    assert case_scores(found, reference, NAMES, SPACING, [[1, 2], [2]])["dice"] == {"liver": 1.0, "tumour": 0.0}
    assert case_scores(found, reference, NAMES, SPACING)["dice"]["liver"] == pytest.approx(2 * 16 / (16 + 32))


def test_means_leave_out_what_has_no_score():
    cases = [
        {"dice": {"liver": 0.5, "tumour": math.nan}, "hd95": {"liver": 2.0, "tumour": math.nan}},
        {"dice": {"liver": 1.0, "tumour": 0.25}, "hd95": {"liver": 4.0, "tumour": math.nan}},
    ]
    means = mean_scores(cases, NAMES)
    assert means["dice"] == {"liver": 0.75, "tumour": 0.25, "mean": 0.5}
    assert means["hd95"] == pytest.approx({"liver": 3.0, "tumour": math.nan, "mean": 3.0}, nan_ok=True)


def test_voxel_size_is_read_off_an_oblique_affine():
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACING)
    assert voxel_size(MetaTensor(torch.zeros(1, 2, 2, 2), affine=affine)) == pytest.approx(SPACING)


def scored_engine(samples: list[dict]) -> tuple[Engine, SegmentationScores]:
    engine = Engine(lambda engine, batch: batch)
    engine.state.metric_details, engine.state.rank = {}, 0
    metric = SegmentationScores(NAMES)
    metric.attach(engine, "mean_dice")
    engine.run([[sample] for sample in samples])
    return engine, metric


def sample(name: str, shift: int = 0) -> dict:
    label = torch.zeros(1, 8, 8, 8)
    label[:, 2:5, 2:5, 2:5] = 1
    pred = torch.roll(label, shift, dims=1)
    meta = {"filename_or_obj": f"/somewhere/{name}"}
    return {
        "image": MetaTensor(label.clone(), meta=meta),
        "label": MetaTensor(label, affine=np.diag([*SPACING, 1.0]), meta=meta),
        "pred": pred,
    }


def test_metric_is_the_mean_dice_and_the_rest_goes_along():
    engine, _ = scored_engine([sample("a.nii.gz"), sample("b.nii.gz", shift=3)])
    assert engine.state.metrics["mean_dice"] == pytest.approx(0.5)
    assert engine.state.metrics["dice_liver"] == pytest.approx(0.5)
    assert engine.state.metrics["hd95_liver"] == pytest.approx(1.5)  # 0 mm and 3 voxels of 1 mm
    assert math.isnan(engine.state.metrics["dice_tumour"])


def test_a_scan_that_a_sampler_repeats_counts_once():
    engine, _ = scored_engine([sample("a.nii.gz"), sample("b.nii.gz", shift=3), sample("b.nii.gz", shift=3)])
    assert len(engine.state.metric_details["cases"]) == 2


def test_no_case_at_all_is_zero_dice():
    metric = SegmentationScores(NAMES)
    metric.reset()
    assert metric.compute() == 0.0


def test_report_has_the_agreed_form(tmp_path, capsys):
    engine, _ = scored_engine([sample("a.nii.gz"), sample("b.nii.gz", shift=3)])
    names = CaseNames({"image": name} for name in ("/somewhere/a.nii.gz", "/somewhere/b.nii.gz"))
    MetricsReportHandler(tmp_path / "metrics.json", NAMES, names, {"section": "test"})(engine)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert (report["classes"], report["section"]) == (NAMES, "test")
    assert [case["image"] for case in report["cases"]] == ["a.nii.gz", "b.nii.gz"]
    assert report["cases"][0]["dice"] == {"liver": 1.0, "tumour": None}
    assert report["mean"]["dice"] == {"liver": 0.5, "tumour": None, "mean": 0.5}
    assert "liver" in capsys.readouterr().out


def test_table_shows_a_dash_for_what_has_no_score():
    means = {"dice": {"nanoma": math.nan, "mean": 0.5}, "hd95": {"nanoma": math.nan, "mean": 1.0}}
    rows = metrics_table({"cases": [], "mean": means}).splitlines()
    assert [row.split() for row in rows[1:]] == [["nanoma", "-", "-"], ["mean", "0.5000", "1.00"]]


def test_where_the_reference_is_ignored_nothing_counts():
    reference = torch.zeros(1, 6, 4, 4)
    reference[:, :2], reference[:, 4:] = 1, IGNORE
    prediction = torch.ones(1, 6, 4, 4)
    scores, known = (case_scores(prediction[:, :n], reference[:, :n], ["background", "a"], SPACING) for n in (6, 4))
    assert scores["dice"] == known["dice"] == {"a": pytest.approx(2 / 3)} and scores["hd95"] == known["hd95"]
