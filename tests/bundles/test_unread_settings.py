"""No config of ours has a setting that nothing reads, or an argument that nobody takes; one that has is told."""

from pathlib import Path

import pytest
import yaml
from bundle_runs import ROOT, TOGETHER, config_files
from unread_settings import config_faults

GOOD = {
    "imports": ["$import torch"],
    "rate": 0.1,
    "sizes": {"deep": [1, 2], "flat": 3},
    "layer": {"_target_": "torch.nn.Linear", "in_features": "@sizes#flat", "out_features": "$@sizes['deep'][0]"},
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@layer.parameters()", "lr": "@rate"},
    "run": ["$@optimizer.step()"],
}


def faults(folder: Path, *contents: dict) -> list[str]:
    files = [folder / f"{number}.yaml" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_text(yaml.safe_dump(content))
    return config_faults(files)


@pytest.mark.parametrize(("bundle", "configs"), TOGETHER)
def test_every_setting_of_our_configs_is_read_and_every_argument_taken(bundle, configs):
    assert config_faults([ROOT / file for file in config_files(bundle, *configs.split())]) == []


@pytest.mark.parametrize("bundle", ["desd_pretrain", "desd_seg_finetune"])
def test_every_config_of_the_bundles_is_among_them(bundle):
    names = {path.stem for path in (ROOT / "bundles" / bundle / "configs").glob("*.yaml")}
    assert names == {name for other, configs in TOGETHER if other == bundle for name in configs.split()}


def test_a_good_config_has_no_faults(tmp_path):
    assert faults(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        ({"knob": 1}, "knob: nothing uses it"),
        ({"momentum": "@rate"}, "momentum: nothing uses it"),  # that it uses others is no use
        ({"sizes#deeper": 1, "layer#out_features": "@sizes#deep#0"}, "sizes.deep.1: nothing uses it"),
        ({"optimizer#learning_rate": 1}, "optimizer.learning_rate: torch.optim.SGD takes no such argument"),
        ({"layer#bias": "@with_bias"}, "layer.bias: refers to 'with_bias', which does not exist"),
        ({"layer#_target_": "torch.nn.Linaer"}, "layer: its target torch.nn.Linaer does not exist"),
    ],
)
def test_a_planted_fault_is_found_and_named(tmp_path, planted, fault):
    assert fault in faults(tmp_path, GOOD, planted)


def test_what_programs_look_up_by_monais_names_is_read(tmp_path):
    asked = {"scaling": "@rate", "train": {"preprocessing": "@scaling", "preprocesing": 1}}
    assert faults(tmp_path, GOOD, asked) == ["train.preprocesing: nothing uses it"]


def test_two_dead_knobs_that_refer_to_each_other_are_both_found(tmp_path):
    assert faults(tmp_path, GOOD, {"a": "@b", "b": "@a"}) == ["a: nothing uses it", "b: nothing uses it"]


def test_a_file_with_another_run_answers_for_its_own_settings_only(tmp_path):
    other = {"words": "hello", "unread": 1, "run": ["$print(@words)"]}
    assert faults(tmp_path, GOOD, other) == ["unread: nothing uses it"]
