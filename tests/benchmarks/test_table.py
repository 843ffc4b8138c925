"""The table of what is to be fast: sides that take turns, and goals that are kept or missed."""

import pytest

from benchmarks import table
from benchmarks.contender import ROOT, Contender, by_turns
from benchmarks.volumes import write_scans


def test_a_side_tells_its_time_its_memory_and_its_own_figures(tmp_path):
    data = write_scans(tmp_path / "scans", (40, 40, 20), count=1)
    side = Contender("recipes:caching", ROOT, data=str(data), folder=str(tmp_path))
    seen = by_turns({"now": side}, rounds=2)["now"]
    assert seen.keys() == {"cpu", "seconds", "peak_mb", "mb"} and len(seen["cpu"]) == 2
    assert seen["mb"] == pytest.approx([40 * 40 * 20 * 2e-6] * 2, rel=0.1) and min(seen["peak_mb"]) > 100


def test_a_side_that_fails_ends_the_benchmark():
    with pytest.raises(SystemExit, match="contender:nothing ended with exit code 1"):
        Contender("contender:nothing", ROOT)()


@pytest.mark.parametrize(
    ("values", "least_is_best", "missed"),
    [([0.5, 0.9, 0.7], True, False), ([0.9, 0.9, 0.7], True, True), ([3, 2, 2], False, False), ([0.7], False, True)],
)
def test_a_median_beyond_its_bound_is_missed(values, least_is_best, missed, monkeypatch):
    figure = table.Figure("a step", values, 0.4, 0.8, "2 s", least_is_best)
    monkeypatch.setitem(table.ROWS, "row", lambda bench: iter([figure]))
    told = table.table({"row": {"figures": table.measured("row")}})
    assert ("**missed**" in told) == missed and "| 0.4 | 0.8" in told
