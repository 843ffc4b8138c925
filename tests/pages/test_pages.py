"""Pages of run folders: what they show, that nothing in a name can change them, and what a browser makes of them."""

import html as entities
import json
import logging
import re
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browsers import browse, with_probe
from bundle_runs import history
from ignite.engine import Engine
from monai.data import MetaTensor
from run_folders import write_pretraining
from scan_files import write_nifti

from desd_components import CasePictures, finish_run
from desd_components.pages import charts, figures, sections
from desd_components.pages.charts import Chart
from desd_components.pages.run_page import run_page, write_run_page
from desd_components.pages.runs import Part, Run, read_run
from desd_components.pages.slices import case_stack

EVIL = "<script>alert(1)</script>"


def written(folder: Path, **files: object) -> Path:
    """A run's folder that holds these records; `history` is a list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name == "history":
            (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def scores(names: str, *cases: tuple[str, float, float]) -> dict:
    """What metrics.json says of cases (image, dice, hd95) of one class."""
    records = [{"image": image, "dice": {names: dice}, "hd95": {names: far}} for image, dice, far in cases]
    mean = {measure: dict.fromkeys((names, "mean"), records[0][measure][names]) for measure in ("dice", "hd95")}
    return {"classes": ["background", names], "cases": records, "mean": mean}


def evaluate(folder: Path, count: int, size: int = 24) -> None:
    """An evaluation of `count` scans by an engine with `CasePictures`, the first the best; writes metrics.json, too."""
    affine = torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0], dtype=torch.float64))
    label = torch.zeros(1, size, size, size)
    label[:, 4:14, 5:15, 6:16] = 1

    def samples(engine: Engine, number: int) -> list[dict]:
        path = folder / "scans" / f"scan_{number}.nii.gz"
        noise = np.random.default_rng(number).normal(size=(size,) * 3).astype(np.float32)
        write_nifti(path, noise + 3 * label[0].numpy(), affine.numpy())
        image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": str(path)})
        pred = MetaTensor(label.roll(number * 8 // count, 1), affine=affine)
        return [{"image": image, "label": MetaTensor(label, affine=affine), "pred": pred}]

    engine = Engine(samples)
    CasePictures(folder).attach(engine)
    engine.run(range(count), max_epochs=1)
    cases = [(f"scan_{n}.nii.gz" if n else EVIL, 1 - n * 8 // count / 10, float(n * 8 // count)) for n in range(count)]
    written(folder, metrics=scores(EVIL, *cases))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pre-training with hostile names everywhere, and an evaluation of eight scans beside it."""
    place = write_pretraining(tmp_path_factory.mktemp("pages") / f"run {EVIL.replace('/', '')}")
    rows = history(place)
    for number, row in enumerate(rows):
        row |= {"alarm_uniform_collapse": float(2 <= number < 9), "odd_thing_1": number / 7, "odd_thing_2": number / 5}
    written(place, history=rows)
    (place / "config.yaml").write_text(f"dataset_dir: '{EVIL}'\nnum_prototypes: 256\n")
    evaluate(place, 8)
    write_run_page(place)
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_a_page_refers_to_nothing_outside_and_runs_its_own_script_alone(page):
    assert not re.search(r"(?:src|href|srcset|action)\s*=\s*[\"'](?!#|data:)", page)
    assert not re.search(r"<(?:link|iframe|object|embed|base)\b|<[^>]*\son\w+=|url\((?!#)|https?:|@import", page)
    assert page.count("<script") == 1 and "default-src 'none'" in page


def test_names_and_settings_are_text_never_markup(page):
    assert EVIL not in page
    assert page.count(entities.escape(EVIL)) >= 4, "class, scan, setting"


def test_cases_are_listed_the_worst_first(page):
    table = page[page.index("Case by case</h2>") :]
    dice = [float(value) for value in re.findall(r'<tr><td>.*?data-v="([\d.]+)"', table)][:8]
    assert len(dice) == 8 and dice == sorted(dice) and dice[0] < dice[-1]


def test_best_median_and_worst_case_are_pictures_with_words(folder, page):
    pictures = json.loads((folder / "pictures" / "evaluation.json").read_text())
    assert [p["title"] for p in pictures[::2]] == ["Best case.", "Median case.", "Worst case."]
    assert [re.match(r"scan_(\d)", p["caption"])[1] for p in pictures] == ["0", "0", "4", "4", "7", "7"]
    assert [p["slices"] for p in pictures] == [1, 24] * 3  # across the thickest axis
    assert all(f'alt="{p["alt"]}"' in page for p in pictures)


def test_a_stack_holds_every_slice_once_with_both_outlines():
    truth, prediction = np.zeros((2, 20, 30, 8), np.int16)
    truth[5:10, 5:15, 2:6], prediction[6:11, 5:15, 2:6] = 1, 2
    image = np.broadcast_to(np.arange(8.0), (20, 30, 8))
    stack = case_stack(image, truth, prediction, (1.0, 1.0, 5.0))
    assert (stack.slices, stack.plane) == (8, "axial") and 2 <= stack.first < 6
    frames = stack.strip.reshape(8, -1, stack.strip.shape[1], 3)
    greys = [int(np.median(frame)) for frame in frames]
    assert greys == sorted(set(greys)), "each slice once, from the feet up"
    has_white = [bool((frame == 255).all(axis=-1).any()) and greys[i] < 255 for i, frame in enumerate(frames)]
    has_blue = [bool((frame == [0x4A, 0xA8, 0xFF]).all(axis=-1).any()) for frame in frames]
    assert has_white == has_blue == [False, False, True, True, True, True, False, False]


def test_an_alarm_is_listed_once_with_the_step_at_which_it_began(page, folder):
    [(record, name)] = sections.alarm_onsets(read_run(folder).history)
    assert (record["step"], record["iteration"], name) == (4, 8, "uniform_collapse")
    row = re.search(r"<tr><td>4</td><td>1</td><td>uniform collapse</td><td>(.*?)</td>", page)
    assert row and "the teacher &lt;says&gt; the same." in row[1]


def test_each_of_many_alarms_has_its_own_words_before_long(tmp_path):
    steps = range(2_000_000, 2_020_000)
    found = Run(tmp_path, "run", parts=[Part("", warnings=[f"iteration {step}: says {step}" for step in steps[::2]])])
    found.history = [{"step": step, "iteration": step, "alarm_odd": float(step % 2 == 0)} for step in steps]
    started = time.process_time()
    section = sections.alarms_section(found)
    assert time.process_time() - started < 5
    assert section.parts[0].count("says 2") == 10_000 and "no words" not in section.parts[0] and len(section.parts) == 1


def test_a_figure_that_no_one_foresaw_is_drawn_beside_its_siblings(folder, page):
    run = read_run(folder)
    [found] = charts.other_charts(run, charts.PRETRAINING_CHARTS)
    assert {key: line.label for key, line in found.lines(run).items()} == {"odd_thing_1": "1", "odd_thing_2": "2"}
    assert "<b>Odd thing.</b>" in page


def test_a_chart_may_begin_at_zero_lest_small_changes_look_large():
    drawn = [
        figures.curves([figures.Line("a", [1, 2, 3], [1.0, 1.1, 1.05])], "ratio", from_zero=begins)
        for begins in (True, False)
    ]
    assert [">0.0</text>" in svg for svg in drawn] == [True, False]


def test_a_single_class_is_shown_once_and_a_count_that_stayed_0_not_at_all(tmp_path):
    rows = [{"step": step, "epoch": step, "seconds": 1, "loss": 1 / step, "skipped_steps": 0} for step in (1, 2, 3)]
    rows += [{"epoch": 3, "val_mean_dice": d, "val_dice_liver": d, "val_hd95_liver": 4.0} for d in (0.25, 0.5)]
    run = read_run(written(tmp_path, history=rows, metrics=scores("liver", ("a.nii", 0.625, 4.0))))
    assert run.figures["val_mean_dice"] == ([3.0, 3.0], [0.25, 0.5]), "at the last step before it"
    made = run_page(run)
    assert made.count(">0.625</td>") == 2, "in the table of results and in that of the cases"
    assert re.findall(r"<figcaption><b>([^<]*)</b>", made) == [
        "Overlap with the truth, by class.", "Training loss.", "Validation.", "Distance of the borders.",
    ]  # fmt: skip


def test_what_was_recorded_once_is_a_row_of_its_class_and_no_curve(tmp_path):
    rows = [{"step": step, "epoch": step, "seconds": 1, "loss": 1 / step} for step in (1, 2)]
    never_found = {"val_dice_liver": 0.0, "val_hd95_liver": None}
    rows += [{"epoch": 2, "val_mean_dice": 0.5, "val_dice_left_lung": 0.75, "val_hd95_left_lung": 2.5, **never_found}]
    made = run_page(read_run(written(tmp_path, history=rows)))
    assert re.findall(r"<figcaption><b>([^<]*)</b>", made) == ["Training loss."]
    single, classes = re.findall(r"<table>\n<tr><th>recorded once</th>(.*?)</table>", made, re.DOTALL)
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", table) for table in (single, classes)]
    assert cells[0] == ["value", "Validation: Dice", "0.5"]
    head = ["Validation, by class: Dice (1 = same as the truth)"]
    head += ["Distance of the borders: 95 % Hausdorff distance (mm)"]
    assert cells[1] == [*head, "left lung", "0.75", "2.5", "liver", "0", ""]
    assert charts.chart_figure([read_run(tmp_path)], charts.PRETRAINING_CHARTS[1]) == "", "nothing was recorded for it"


def test_every_picture_and_drawing_says_what_it_shows(page):
    assert page.count("<svg ") == page.count('<div role="img" aria-label="') > 8
    assert page.count("<img ") == len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == 6


def test_probes_of_an_encoder_are_a_table_with_intervals(tmp_path):
    score = {"trained": 0.75, "untrained": 0.5, "difference": 0.25}
    stages = {"stage_4": {**score, "interval_95": [0.125, 0.375]}}
    metrics = {"volumes": 6, "retrieval": stages, "interval_covers": EVIL}
    made = run_page(read_run(written(tmp_path, metrics=metrics)))
    assert "+0.125 to +0.375" in made and "finds the other view" in made and EVIL not in made


def test_scans_with_a_warning_stand_first(tmp_path):
    common = {"shape": [9, 8, 7], "spacing_mm": [1.0, 1.0, 2.5], "seconds": 1.5}
    scans = [
        {"image": "/data/a.nii", **common, "volumes_ml": {"liver": 12.5}, "warnings": []},
        {"image": f"/data/{EVIL}.nii", **common, "volumes_ml": {"liver": 0.0}, "warnings": ["nothing was found"]},
    ]
    report = {"segmented": ["a", "b"], "failed": [{"image": "c", "error": EVIL}], "scans": scans}
    made = run_page(read_run(written(tmp_path, report=report)))
    assert made.index("nothing was found") < made.index("a.nii</td>") and "liver (ml)" in made and EVIL not in made


def test_a_page_that_fails_is_a_warning_with_its_cause_and_no_more_and_without_page_none_is_written(tmp_path, caplog):
    (tmp_path / "history.jsonl").write_text("{broken\n")
    with caplog.at_level(logging.WARNING):
        finish_run(tmp_path)
        finish_run(tmp_path, page=False)
    [warning] = caplog.records
    assert "no page was written" in warning.message and "not JSON" in warning.message and "\n" not in warning.message
    assert not (tmp_path / "report.html").exists()


def test_a_page_of_fifty_cases_takes_at_most_twenty_seconds_and_ten_megabytes(tmp_path):
    folder = write_pretraining(tmp_path / "run")
    before = resource.getrusage(resource.RUSAGE_SELF)
    evaluate(folder, 50)
    path = write_run_page(folder)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
    assert path.stat().st_size < 10e6


@pytest.mark.parametrize("width", [1200, 400], ids=["desk", "phone"])
def test_a_browser_shows_all_pictures_sorts_the_table_and_asks_for_nothing(folder, width):
    made, _ = browse(with_probe(folder / "report.html"), width)
    seen = json.loads(entities.unescape(re.search(r'data-probe="([^"]*)"', made)[1]))
    assert seen["shown"] == seen["pictures"] == 6
    assert seen["requests"] == []
    assert seen["wide"] <= 0, "the page itself never scrolls sideways"
    assert seen["after"] == sorted(seen["before"]) != seen["before"]
    assert seen["left"] == seen["after"][:1], "the filter leaves the row that is asked for"
    assert seen["slice"] == ["23", f"translateY({-100 * 23 / 24:.4f}%)"] and 200 < seen["height"] <= 480
    assert re.match(r"step \d+\D+\d\.\d+", seen["told"]), "an arrow key tells the values of a curve"


def test_no_table_is_wider_than_the_paper_that_it_is_printed_on(tmp_path):
    hashed = {"data_hash": "0a" * 32}
    rows = [{"step": 1, "epoch": 1, "seconds": 1, "loss": 1.0}]
    folder = written(tmp_path, history=rows, metrics={}, environment=hashed, evaluation_environment=hashed)
    text = write_run_page(folder).read_text(encoding="utf-8").replace("overflow-x: auto", "overflow-x: visible")
    (tmp_path / "printed.html").write_text(text.replace("@media print", "@media all"), encoding="utf-8")
    made, _ = browse(with_probe(tmp_path / "printed.html"), 700)  # pixels of A4 between its margins
    assert made.count("0a" * 32) == 2, "two columns that cannot be broken at a space"
    assert json.loads(entities.unescape(re.search(r'data-probe="([^"]*)"', made)[1]))["wide"] <= 0


def test_a_browser_has_nothing_to_complain_of(folder):
    made, complaints = browse(folder / "report.html")
    assert "Case by case" in made and complaints == []


def test_the_plan_of_a_run_is_shown_with_its_reasons(tmp_path):
    run = write_pretraining(tmp_path / "run")
    assert ">Plan</h2>" not in run_page(read_run(run))
    page = run_page(read_run(written(run, plan={"spacing": {"value": [2.0, 2.0, 9.0], "why": f"coarse {EVIL}"}})))
    assert ">Plan</h2>" in page and "[2.0, 2.0, 9.0]" in page and EVIL not in page and "coarse &lt;script" in page


def test_a_number_in_a_key_is_a_number_alone():
    names = ("feature_rank_1", "feature_rank_2", "feature_rank_bound", "feature_rank_share_1")
    run = SimpleNamespace(figures={name: ([1, 2], [3.0, 4.0]) for name in names})
    assert list(Chart({"feature_rank_#": "stage {}"}, "", "").lines(run)) == list(names[:2])
