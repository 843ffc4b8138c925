"""The notebook is clean as committed, and runs from its first cell to its last."""

import json
import re

import pytest
import yaml
from bundle_runs import ENVIRONMENT, ROOT

from desd_tools.studies.curve.plan import Planner
from desd_tools.studies.curve.study import read_study
from desd_tools.studies.curve.units import Places, Scans

NOTEBOOK = ROOT / "docs" / "from_scans_to_label_curve.ipynb"


def cells(kind):
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_committed_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
    assert not re.search(r"/(home|root|work|tmp|Users)/", NOTEBOOK.read_text())


def test_the_notebooks_study_names_only_settings_that_exist(tmp_path):
    [source] = ["".join(cell["source"]) for cell in cells("code") if "study = {" in "".join(cell["source"])]
    exec(source, {"OUTPUT": tmp_path, "yaml": yaml})
    places = Places(tmp_path / "data", tmp_path / "splits.json", tmp_path / "out", ROOT / "bundles")
    Planner(read_study(tmp_path / "study.yaml"), places, Scans(2, 1, 3, "d"), "c").check()


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_notebook_runs_to_its_label_curve(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DESD_NOTEBOOK_OUTPUT", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(ROOT)}}).execute()
    last = notebook.cells[-1]["outputs"][-1]["data"]["text/markdown"]
    assert "scratch" in last and "pretrained" in last
    assert (tmp_path / "curve" / "index.html").stat().st_size > 10_000
