"""A setting that no config knows is refused, with the nearest one that is."""

import pytest
from bundle_runs import ROOT, TOGETHER, config_files, error_line, run_files, words_to_settings

from desd_components import UserError
from desd_components.runs.command import refuse_odd_call, refuse_unknown_keys
from desd_components.runs.config import refuse_odd_values

CONFIG = """
max_epochs: 3
page: true
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
    files, given = words_to_settings("training", "--config_file", str(config), *words)
    refuse_odd_values(refuse_odd_call(files, given).get())


PASS = ["--max_epochs 5", "--page False", "--page true", "--page $False", "--optimizer#lr=0.2", ""]
PASS += ["--optimizer::nesterov True", "--logging_file x.conf", "--tracking mlflow --experiment_name mine"]


@pytest.mark.parametrize("words", PASS)
def test_settings_that_exist_pass(config, words):
    check(config, *words.split())


REFUSED = {
    "--epoch 5": "--epoch: .*",
    "-max_epoch 5": "mean --max_epochs",
    "--page false": r"--page false: True or False stands there in the config \(True\)",
    "--max_epochs ten": r"--max_epochs ten: a number stands there in the config \(3\)",
    "--max_epoch 5": "mean --max_epochs",
    "--optimiser#lr 1": "mean --optimizer#lr",
    "--optimizer#rate=1": "no such setting",
    "--experiment_name mine": "--experiment_name: the config has no such setting",  # without --tracking
}


@pytest.mark.parametrize(("words", "meant"), REFUSED.items(), ids=REFUSED)
def test_settings_that_do_not_exist_are_refused_with_the_nearest(config, words, meant):
    with pytest.raises(UserError, match=meant):
        check(config, *words.split())


@pytest.mark.parametrize("words", [("--output_dir", "2024"), ("--output_dir=1e5",), ("--output_dir",)])
def test_a_path_that_fire_takes_for_something_else_is_refused(config, words):
    config.write_text(f"output_dir: runs\n{CONFIG}")
    with pytest.raises(UserError, match=r"^output_dir: .* is not possible: give a path"):
        check(config, *words)
    check(config, "--output_dir", "./2024")


def test_settings_of_an_args_file_are_checked_too(config, tmp_path):
    (tmp_path / "args.json").write_text('{"max_epoch": 2}')
    done = run_files([str(config)], args_file=tmp_path / "args.json")
    assert "mean --max_epochs" in error_line(done)


OVERLAYS = {
    "max_epoch: 5": "max_epoch: the config has no such setting. Did you mean max_epochs",
    "max_epochs: ten": "max_epochs: ten: a number stands there",
    "optimizer#rate: 5": "optimizer#rate: the config has no such setting",
    "optimiser: {_target_: torch.optim.SGD}": "Did you mean optimizer",
    "sizes: {dept: 3}": "sizes#dept: .*Did you mean sizes#depth",
}


@pytest.mark.parametrize(("text", "words"), OVERLAYS.items(), ids=OVERLAYS)
def test_keys_of_overlays_that_nothing_knows_are_refused(config, tmp_path, text, words):
    config.write_text(CONFIG + "sizes:\n  depth: 2\n")
    (tmp_path / "overlay.yaml").write_text(text)
    with pytest.raises(UserError, match=f"overlay.yaml: {words}" if "Did you" not in words else words):
        refuse_unknown_keys([str(config), str(tmp_path / "overlay.yaml")])


KNOWN = [
    "max_epochs: 5",
    "max_epochs: $2 + 3",
    "optimizer#nesterov: true",
    "rate: 0.2\noptimizer#lr: '@rate'",
    "epochs: 5\nmax_epochs: '%epochs'",
    "+run: [$print(1)]",
    "sizes: {}",
    "training: '%run'",
]


@pytest.mark.parametrize("text", KNOWN)
def test_keys_of_overlays_that_are_known_or_referred_to_pass(config, tmp_path, text):
    config.write_text(CONFIG + "sizes:\n  depth: 2\n")
    (tmp_path / "overlay.yaml").write_text(text)
    refuse_unknown_keys([str(config), str(tmp_path / "overlay.yaml")])


def test_an_overlay_may_take_away_what_refers_to_a_key_of_the_one_before(config, tmp_path):
    for name, text in (("first", "rate: 0.2\noptimizer#lr: '@rate'"), ("second", "optimizer#lr: 0.3")):
        (tmp_path / f"{name}.yaml").write_text(text)
    refuse_unknown_keys([str(config), str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")])


@pytest.mark.parametrize(("bundle", "configs"), [*TOGETHER, ("desd_pretrain", "train small smoke evaluate")])
def test_the_overlays_of_our_bundles_pass(bundle, configs):
    refuse_unknown_keys([str(ROOT / file) for file in config_files(bundle, *configs.split())])


@pytest.mark.parametrize("own_process", [True, False])
def test_the_user_sees_one_line(config, own_process):
    """As all tests see it that start no Python of their own, for that says the same."""
    done = run_files([str(config)], max_epoch=5, own_process=own_process)
    assert (done.returncode, done.stdout.count("ran for")) == (1, 0)
    assert error_line(done).startswith("--max_epoch: the config has no such setting.")
