"""A setting that no config knows is refused, with the nearest one that is."""

import subprocess
import sys

import pytest

from desd_components import UserError
from desd_components.command_line import given_settings, refuse_unknown_settings

CONFIG = """
max_epochs: 3
optimizer:
  _target_: torch.optim.SGD
  params: []
  lr: 0.1
initialize:
- $__import__('desd_components').plain_errors()
run:
- $print('ran for', @max_epochs)
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "train.yaml").write_text(CONFIG)
    return tmp_path / "train.yaml"


def check(config, *words):
    refuse_unknown_settings(["site/monai/bundle/__main__.py", "run", "training", "--config_file", str(config), *words])


def test_words_are_read_as_fire_reads_them():
    words = ["training", "--a", "3", "--b=[1,2]", "--flag", "--c", "text"]
    assert given_settings(words) == {"a": 3, "b": [1, 2], "flag": True, "c": "text"}


@pytest.mark.parametrize(
    "words",
    [
        ("--max_epochs", "5"),
        ("--optimizer#lr=0.2",),
        ("--optimizer::nesterov", "True"),
        ("--logging_file", "x.conf"),
        (),
    ],
)
def test_settings_that_exist_pass(config, words):
    check(config, *words)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("--epoch", "5"), "--epoch: .*"),
        (("--max_epoch", "5"), "mean --max_epochs"),
        (("--optimiser#lr", "1"), "mean --optimizer#lr"),
        (("--optimizer#rate=1",), "no such setting"),
    ],
)
def test_settings_that_do_not_exist_are_refused_with_the_nearest(config, words, meant):
    with pytest.raises(UserError, match=meant):
        check(config, *words)


@pytest.mark.parametrize("words", [("--output_dir", "2024"), ("--output_dir=1e5",), ("--output_dir",)])
def test_a_path_that_fire_takes_for_something_else_is_refused(config, words):
    config.write_text(f"output_dir: runs\n{CONFIG}")
    with pytest.raises(UserError, match=r"^--output_dir .* is read as a (int|float|bool), not as a path: write \./"):
        check(config, *words)
    check(config, "--output_dir", "./2024")


def test_settings_of_an_args_file_are_checked_too(config, tmp_path):
    (tmp_path / "args.json").write_text('{"max_epoch": 2}')
    with pytest.raises(UserError, match="mean --max_epochs"):
        check(config, "--args_file", str(tmp_path / "args.json"))


def test_tracking_brings_settings_of_its_own(config):
    check(config, "--tracking", "mlflow", "--experiment_name", "mine")
    with pytest.raises(UserError, match="--experiment_name"):
        check(config, "--experiment_name", "mine")


def test_other_programs_are_left_alone():
    refuse_unknown_settings(["pytest", "run", "--whatever", "1"])


def test_the_user_sees_one_line(config):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), "--max_epoch", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "ran for" not in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith("error: --max_epoch: the config has no such setting.")
    assert "Traceback" not in done.stderr
