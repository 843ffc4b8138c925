"""The page: self-contained, complete, and every number on it is one of the runs' own."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from run_folders import write_arm, write_pretraining

from desd_components import find_labelled
from desd_components.base.errors import UserError
from desd_components.pages import charts, figures, runs, slices
from desd_tools.__main__ import main
from desd_tools.studies import cases
from desd_tools.studies.phantom import phantom


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A tiny family, a pre-training and two arms: written once, read by all tests."""
    folder = tmp_path_factory.mktemp("study")
    phantom.write_family(folder / "data", 8, 0, seed=4, size=24)
    cases = json.loads((folder / "data" / "splits.json").read_text())["test"]
    write_pretraining(folder / "pretrain")
    write_arm(folder / "encoder", folder / "data", cases, moves=0.6)
    write_arm(folder / "scratch", folder / "data", cases, moves=1.6)
    return folder


@pytest.fixture(scope="module")
def html(study: Path) -> str:
    runs = [str(study / name) for name in ("pretrain", "encoder", "scratch")]
    assert main(["report", *runs, "--output", str(study / "page.html")]) == 0
    return (study / "page.html").read_text()


def _cases(study: Path) -> list[cases.Case]:
    folders = {name: study / name / "predictions" for name in ("encoder", "scratch")}
    return cases.find_cases(find_labelled(study / "data", data_split=study / "data" / "splits.json"), folders)


def test_every_figure_is_there_with_axes_and_a_caption(study, html):
    run = runs.read_run(study / "pretrain")
    drawn = [chart.title for chart in charts.PRETRAINING_CHARTS if chart.lines(run)]
    for title in ("Overlap with the truth, by class.", *drawn, "Training loss.", "Validation."):
        assert f"</svg></div><figcaption><b>{title}</b> " in html
    assert html.count("<svg") == html.count("<figcaption>") == 1 + 13 + 2
    for label in ("stage 1", "stage 4", "optimiser step", "loss (nats)", "Dice (1 = same as the truth)"):
        assert f">{label}</text>" in html


def test_the_line_of_ignorance_is_the_log_of_the_number_of_prototypes(html):
    assert html.count(">ln K = 5.545</text>") == 3  # ln 256 in the figures of total loss, stage losses and entropy


def test_numbers_in_the_table_and_on_the_bars_are_those_of_metrics_json(study, html):
    means = [json.loads((study / arm / "metrics.json").read_text())["mean"] for arm in ("encoder", "scratch")]
    names = {**{name: name for name in ("liver", "spleen", "kidneys", "lesion")}, "mean": "mean of classes"}
    wanted = [
        (words, f"{mean['dice'][name]:.3f}", f"{mean['hd95'][name]:.1f}")
        for mean in means
        for name, words in names.items()
    ]
    told = re.findall(r'<td>([^<]+)</td><td class="n">([^<]+)</td><td class="n">([^<]+)</td>', html)
    assert told[: len(wanted)] == wanted
    assert all(f">{dice}</text>" in html for _, dice, _ in wanted)


def test_settings_and_provenance_are_on_the_page(html):
    assert "<details>" in html and "num_prototypes: 256" in html
    for fact in ("c0ffee", "da7a", "torch 2.13.0", "2026-01-01T10:00:00"):
        assert fact in html


def test_identifiers_on_the_page_are_unique_and_no_fixed_color_of_the_charts_is_left(html):
    identifiers = re.findall(r'\sid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers)) > 10
    assert not [color for color in figures.COLORS.values() if color in html]


def test_best_median_and_worst_case_are_shown_for_both_arms(study):
    arms = [runs.read_run(study / name) for name in ("encoder", "scratch")]
    chosen = cases.pick_cases(_cases(study), arms)
    means = {case.name: np.mean([cases.score_of(arm, case) for arm in arms]) for case in _cases(study)}
    assert means[chosen["best"].name] == max(means.values()) and means[chosen["worst"].name] == min(means.values())
    section = "".join(cases.slices_section(_cases(study), arms).parts)
    assert section.count("<svg") == len(chosen) == 3
    assert section.count(">encoder</text>") == section.count(">scratch</text>") == 3
    assert "data:image/png;base64" in section and "20 mm" in section


def test_a_prediction_on_another_grid_is_refused(study, tmp_path):
    case = _cases(study)[0]
    label = nib.nifti1.load(case.truth)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj), label.affine + 0.5), tmp_path / "off.nii.gz")
    case.predictions["encoder"] = tmp_path / "off.nii.gz"
    with pytest.raises(UserError, match=r"off\.nii\.gz: not on the grid of"):
        cases.load_case(case)


def test_loaded_volumes_look_towards_right_front_and_head(study):
    """Whatever the file's orientation: the liver lies at high x, and the affine of the file says so too."""
    for case in _cases(study):
        image, truth, predictions, spacing = cases.load_case(case)
        liver, spleen = (np.argwhere(truth == c).mean(0) for c in (1, 2))
        assert liver[0] > spleen[0]
        assert image.shape == truth.shape == predictions["encoder"].shape
        assert spacing[2] > 2.9 and max(spacing[:2]) < 2.6


def test_slices_show_the_plane_with_most_classes():
    truth = np.zeros((6, 5, 4), int)
    truth[2, 1:4, 1:3] = 1
    truth[4, 2, 3] = 2
    assert slices.best_slices(truth) == (2, 2, 1), "most voxels along x and z, both classes along y"


def test_of_a_large_volume_every_second_voxel_chooses_the_slices():
    labels = np.zeros((210, 240, 200), np.int16)
    labels[50:90, 100:140, 60:80] = 1
    labels[70:72, 90:150, 60:80] = 1
    cuts = slices.best_slices(labels)
    assert abs(cuts[0] - 70) <= 1 and 100 <= cuts[1] < 140 and 60 <= cuts[2] < 80
    assert slices.window_of(np.where(labels > 0, 40.0, -1000.0)) == slices.CT_WINDOW


def test_a_plane_is_drawn_as_radiologists_look_at_it():
    volume = np.zeros((3, 4, 5))
    volume[2, 3, 4] = 1  # right, front, head
    axial, coronal, sagittal = (slices._cut(volume, a, b, (2, 3, 4)) for _, a, b in slices._PLANES)
    assert axial.shape == (4, 3) and axial[3, 0] == 1, "right on the left, front on top"
    assert coronal.shape == (5, 3) and coronal[4, 0] == 1, "right on the left, head on top"
    assert sagittal.shape == (5, 4) and sagittal[4, 0] == 1, "front on the left, head on top"


def test_a_long_curve_that_stays_the_same_is_not_smoothed_for_rounding_would_be_all_to_see():
    steps = list(range(100))
    still, moving = (figures.curves([figures.Line("x", steps, [0.3 + up * s for s in steps])], "y") for up in (0, 1))
    assert "opacity: 0.28" in moving and "opacity: 0.28" not in still


def test_running_mean_equals_the_written_out_one():
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    expected = [sum(values[max(0, i - 1) : i + 2]) / len(values[max(0, i - 1) : i + 2]) for i in range(5)]
    np.testing.assert_allclose(figures.running_mean(values, 1), expected)


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "neither history.jsonl nor metrics.json" in capsys.readouterr().err


def test_a_run_that_stopped_half_way_still_gets_a_page(tmp_path):
    folder = write_pretraining(tmp_path / "run", steps=6)
    (folder / "config.yaml").unlink()
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 0
    assert "Loss of each stage." in (tmp_path / "page.html").read_text()
