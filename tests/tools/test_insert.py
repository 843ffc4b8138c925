"""Generated tables reach a page, and the pages of this repository hold what their files say."""

import pytest
from bundle_runs import ROOT
from curve_runs import level

from desd_components import UserError
from desd_tools.insert import PLACE, filled, insert, score_table

PAGES = ("results/README.md", "bundles/desd_pretrain/docs/README.md", "bundles/desd_seg_finetune/docs/README.md")


def test_what_stands_between_the_marks_is_replaced_and_nothing_else(tmp_path):
    (tmp_path / "table.md").write_text("| new |\n")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- from table.md -->\n| old |\n<!-- end -->\nafter\n")
    insert(str(page))
    once = page.read_text()
    assert once == "before\n<!-- from table.md -->\n| new |\n<!-- end -->\nafter\n"
    insert(str(page))
    assert page.read_text() == once


def test_the_metrics_of_an_evaluation_become_a_table():
    metrics = level("ours", 4, 0, 0.75)["metrics"]
    metrics["mean"] = {
        "dice": {"front": 0.7, "back": 0.8, "mean": 0.75},
        "hd95": {"front": 2.5, "back": None, "mean": 2.5},
    }
    assert score_table(metrics).splitlines() == [
        "| mean of 3 scans | Dice | HD95 (mm) |",
        "|---|---:|---:|",
        "| front | 0.700 | 2.50 |",
        "| back | 0.800 | – |",
        "| mean | 0.750 | 2.50 |",
    ]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"table\.md: no such file"):
        filled("<!-- from table.md -->\n<!-- end -->", tmp_path)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_repository_is_up_to_date(name):
    page = ROOT / name
    text = page.read_text()
    assert PLACE.search(text), "its figures come from a file"
    assert filled(text, page.parent) == text, f"desd insert {name}"
