"""Runs of both bundles leave a page, as people start them; other tests turn pages off by the smoke overlays."""

from pathlib import Path

import pytest
from bundle_runs import run_bundle, succeed
from forked_runs import run_forked
from labelled_volumes import CLASSES, SHAPES, write_pair

from desd_components.pages.handlers import FAILED


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages")
    for number, shape in enumerate(SHAPES[:3]):
        write_pair(path / "data", f"case_{number}", shape, seed=number)
    return path


def run(place: Path, bundle: str, configs: str, *words: str, output: str, **settings: object) -> str:
    """Run a bundle with its page; returns the page."""
    places = {"dataset_dir": place / "data", "output_dir": place / output}
    places |= {} if configs == "inference" else {"cache_dir": place / "cache"}
    succeed(run_bundle(bundle, configs, *words, **places, page=True, **settings))
    return (place / output / "report.html").read_text()


def test_a_pretraining_shows_curves_health_and_feature_maps(place: Path) -> None:
    page = run(place, "desd_pretrain", "train small smoke", "training", output="pretrain")
    for words in ("Loss of each stage.", "No alarm sounded", "What the encoder sees", "peak memory (MB)"):
        assert words in page
    assert page.count("data:image/png;base64") == 2
    assert "</b> </figcaption>" not in page, "a curve without words"


def test_a_pretraining_in_two_processes_leaves_one_page_without_a_complaint(place: Path) -> None:
    output, settings = place / "two_processes", {"dataset_dir": place / "data", "cache_dir": place / "cache"}
    settings |= {"processes": 2, "batch_size": 1, "page": True}
    codes = run_forked("desd_pretrain", "train smoke multi_gpu_train", output, **settings)
    said = [place.joinpath(f"two_processes_{rank}.txt").read_text() for rank in (0, 1)]
    assert codes == [0, 0], "".join(said)[-3000:]
    assert [path.relative_to(output).as_posix() for path in output.rglob("report.html")] == ["report.html"]
    assert ["page: " in words for words in said] == [True, False]
    assert not any(fault in words for words in said for fault in (FAILED, "no page was written", "Traceback"))
    page = (output / "report.html").read_text()
    assert "Loss of each stage." in page and page.count("data:image/png;base64") == 2


@pytest.mark.soak
def test_fine_tuning_evaluation_and_inference_show_curves_cases_and_scans(place: Path) -> None:
    name, settings = "desd_seg_finetune", {"class_names": CLASSES, "val_fraction": 0.34}
    page = run(place, name, "train small smoke", "training", output="arm", **settings)
    assert "Training loss." in page and "Case by case" not in page
    page = run(place, name, "train small smoke evaluate", output="arm", **settings, section="all")
    for words in ("Training loss.", "Case by case", "Best case.", "Worst case.", "arm, evaluation: command"):
        assert words in page
    page = run(place, name, "inference", output="scans", checkpoint=place / "arm" / "model.pt")
    for words in ("Some of the scans", "organ (ml)", "spacing (mm)", "scans done", "config hash"):
        assert words in page
