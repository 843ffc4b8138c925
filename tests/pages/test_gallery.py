"""The gallery: every run below a folder, what tells it from the others, and the way to its page."""

import json
import re
from pathlib import Path

import pytest
from browsers import browse
from run_folders import write_pretraining

from desd_tools import gallery
from desd_tools.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("gallery") / "runs"
    write_pretraining(place / "first & <best>", steps=40)
    write_pretraining(place / "deeper" / "second", steps=40, prototypes=64)
    (place / "scans").mkdir()
    (place / "scans" / "report.json").write_text(json.dumps({"segmented": ["a"], "failed": [], "scans": []}))
    assert main(["gallery", str(place)]) == 0
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "gallery.html").read_text()


def test_every_run_has_a_row_with_a_link_to_its_page(folder, page):
    links = re.findall(r'<a href="([^"#][^"]*)">', page)
    assert links == ["scans/report.html", "deeper/second/report.html", "first%20%26%20%3Cbest%3E/report.html"]
    assert all((folder / path).is_file() for path in ("scans/report.html", "deeper/second/report.html"))


def test_only_settings_that_differ_are_shown(page):
    assert "num_prototypes: 64" in page and "num_prototypes: 256" in page
    assert "seed:" not in page


def test_expressions_and_places_are_no_differences():
    configs = [{"output_dir": "a", "loss": "$@x", "seed": 1}, {"output_dir": "b", "loss": "$@y", "seed": 2}]
    assert gallery.differences(configs) == [{"seed": 1}, {"seed": 2}]


def test_runs_of_one_kind_share_a_figure_in_the_colors_of_their_rows(page):
    assert page.count("<svg ") == 2
    total = page[page.index("<svg ") : page.index("</svg>")]
    assert "var(--series-1)" in total and "var(--series-2)" in total
    assert page.count('class="key" style="background:var(--series-1)"') == 1


def test_a_run_that_was_torn_off_has_its_row_and_one_that_cannot_be_read_is_left_out(tmp_path, caplog):
    killed = write_pretraining(tmp_path / "killed", steps=6)
    with (killed / "history.jsonl").open("a") as history:
        history.write('{"step": 6, "lo')
    broken = write_pretraining(tmp_path / "broken", steps=6)
    (broken / "config.yaml").write_text("a: [")
    assert main(["gallery", str(tmp_path)]) == 0
    assert f"left out: {broken}: its config is not YAML" in caplog.text
    page = (tmp_path / "gallery.html").read_text()
    assert "killed/report.html" in page and "broken/report.html" not in page


def test_a_folder_without_runs_is_refused(tmp_path, capsys):
    assert main(["gallery", str(tmp_path)]) == 2
    assert "no run lies there" in capsys.readouterr().err


def test_a_browser_has_nothing_to_complain_of(folder):
    made, complaints = browse(folder / "gallery.html")
    assert "first &amp; &lt;best&gt;" in made and complaints == []
