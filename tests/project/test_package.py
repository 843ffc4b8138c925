"""The package as it is installed: its weight on import, its command, and the files that say what it is."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions

import pytest
from bundle_runs import ENVIRONMENT, ROOT

import desd_components

CLOCK = """
import sys, time
import torch, monai
alone, known = time.process_time(), set(sys.modules)
import desd_components
print(time.process_time() / alone, *sorted(set(sys.modules) - known))
"""


def test_importing_the_package_costs_little_beside_torch_and_monai_and_no_extra():
    done = subprocess.run([sys.executable, "-c", CLOCK], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    ratio, *new = done.stdout.split()
    assert float(ratio) <= 1.5, done.stdout
    late = {"matplotlib", "tensorboard", "safetensors", "onnx", "lightning", "mlflow", "desd_components.tools"}
    assert "desd_components.distillation.loss" in new and not late & set(new)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package, installed by itself from a copy of its sources, for building writes beside them."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("desd_components", "desd_tools"):
        shutil.copytree(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def test_it_installs_alone_with_everything_that_it_needs_of_its_own(installed):
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"bin", "desd_components", "desd_tools"}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "desd_components").rglob("*") if path.suffix != ".pyc"}
    missing = {name for name in files if (ROOT / name).is_file() and not (installed / name).is_file()}
    assert not missing


def test_the_installed_distribution_has_the_version_of_the_package(installed):
    """Read without importing it, for where a package is built there is no torch."""
    [found] = [each.version for each in distributions(name="desd-components", path=[str(installed)])]
    assert found == desd_components.__version__


def test_desd_is_the_same_as_python_dash_m(installed, tmp_path):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [installed / "bin" / "desd", "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  download +Fetch TASK", done.stdout, flags=re.M)


def test_make_puts_the_command_into_its_environment(tmp_path):
    """Here with a Python that says what it was asked to do, from any folder."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    python, desd = folder / "bin" / "python", folder / "bin" / "desd"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    (folder / ".installed-run").touch()
    subprocess.run(["make", f"VENV={folder}", str(desd)], cwd=ROOT, check=True)
    done = subprocess.run([desd, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{ROOT} -m desd_tools --version\n", done.stderr
