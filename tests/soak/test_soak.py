"""What takes minutes: the demo at full length, as a person starts it."""

import subprocess
import sys

import pytest
from bundle_runs import ROOT

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def run_demo(folder, *words):
    command = [sys.executable, "-m", "desd_tools", "demo", "--output", str(folder), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_demo_on_synthetic_volumes_ends_with_its_page(tmp_path):
    assert "Dice from scratch" in run_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / "index.html").stat().st_size > 100_000


def test_the_demo_on_real_volumes_ends_with_its_page(real_data, tmp_path):
    assert "Dice from scratch" in run_demo(tmp_path / "demo", "--data", str(real_data / "Task04_Hippocampus"))
    assert (tmp_path / "demo" / "index.html").stat().st_size > 100_000
