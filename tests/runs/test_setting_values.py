"""Values that mean nothing are refused by the setting's name; those of all configs mean something."""

import copy
import re
from enum import Enum
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from bundle_runs import ROOT
from monai.bundle import ConfigParser

from desd_components.base.errors import UserError, innermost_user_error
from desd_components.runs.command import settle
from desd_components.runs.config import RULES, is_plain, place_of, refuse_odd_values, walk

ODD = {
    "output_dir": 2025,
    "init_checkpoint": 3.5,
    "num_workers": -1,
    "val_interval": 0,
    "roi_size": [16, 16],
    "hu_window": [5.0, -5.0],
    "seed": True,
    "device": "gpu",
    "stitch_device": "cuda:77",
    "learning_rate": -1.0,
    "slab_depth": 1.5,
    "trim_wider_than": -1,
    "save_minutes": -1,
    "overlap": 1.0,
    "weight_decay": float("nan"),
    "samples_per_epoch": float("inf"),
    "batch_size": 0,
    "amp": "maybe",
    "rotation": [0.1, "a", 0.2],
    "single": "all",
    "warmup_steps": "ten",
}


@pytest.mark.parametrize(("name", "value"), ODD.items(), ids=ODD)
def test_an_odd_value_is_refused_by_its_name(name, value):
    with pytest.raises(UserError, match=f"^{name}: .* is not possible: give "):
        refuse_odd_values({name: value})


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("bundles/*/configs/*.yaml")), ids=lambda file: f"{file.parts[-3]} {file.stem}"
)
def test_the_values_of_every_config_mean_something(file):
    refuse_odd_values(ConfigParser.load_config_file(str(file)))


@pytest.mark.parametrize("settings", [{"train#dataset#slab_depth": 0}, {"train": {"dataset": {"slab_depth": 0}}}])
def test_a_value_is_looked_at_where_it_is_used_too(settings):
    with pytest.raises(UserError, match=r"^train#dataset#slab_depth: 0 is not possible: give a whole number"):
        refuse_odd_values(settings)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mode", "gauss", "'gauss' is not possible: give one of ['constant', 'gaussian']"),
        ("mode", None, "None is not possible: give one of"),
        ("padding_mode", "zeros", "'zeros' is not possible: give one of ['constant', 'reflect', 'replicate', 'circul"),
    ],
)
def test_a_sliding_window_blends_and_pads_as_monai_knows_it(name, value, words):
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "mode": "gaussian"}
    refuse_odd_values({"validate": {"inferer": inferer}})
    with pytest.raises(UserError, match=f"^validate#inferer#{name}: {re.escape(words)}"):
        refuse_odd_values({"validate": {"inferer": {**inferer, name: value}}})


def test_a_target_that_is_not_there_is_refused_by_its_place():
    refuse_odd_values({"loss": {"_target_": "@other#_target_"}, "other": {"_target_": "torch.nn.L1Loss"}})
    with pytest.raises(UserError, match=r"^train#loss: there is no torch\.nn\.L1Los here: mend its name, or install"):
        refuse_odd_values({"train": {"loss": {"_target_": "torch.nn.L1Los"}}})


def test_expressions_references_and_null_are_passed_over():
    refuse_odd_values({"num_workers": "$os.cpu_count()", "overlap": "@displayable_configs#overlap", "roi_size": "null"})


def test_every_rule_is_of_a_setting_that_exists():
    configs = [ConfigParser.load_config_file(str(file)) for file in ROOT.glob("bundles/*/configs/*.yaml")]
    assert set(RULES) <= {place_of(place[-1])[-1] for config in configs for place, _ in walk(config)}


def settled(**config):
    parser = ConfigParser(copy.deepcopy(config))
    parser.parse()  # as a workflow has done before it asks us
    settle(parser, ConfigParser(config))
    return parser


@pytest.mark.parametrize("device", ["cuda:77", "xpu:77", "meta", "CUDA", "", 0, None])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device):
    with pytest.raises(UserError, match=r"^device: .* give a device that PyTorch \S+ finds here: cpu") as refused:
        settled(device=device)
    here = str(refused.value).rpartition(": ")[2].rstrip(".").split(", ")
    for remedy in here:
        assert settled(device=remedy).get_parsed_content("device") == remedy


def test_a_device_is_looked_at_that_an_expression_gives():
    assert settled(device="$torch.device('cpu')").get_parsed_content("device") == "cpu"
    with pytest.raises(UserError, match=r"^device: 'meta' is not possible"):
        settled(device="$torch.device('meta')")


@pytest.mark.parametrize("path", ["$DATA/scans", "$a path", "@study", "@study#1"])
def test_a_path_that_reads_as_something_else_is_refused_and_the_remedy_works(path):
    words = rf"^output_dir: {re.escape(repr(path))} begins with \{path[0]}, so it"
    with pytest.raises(UserError, match=words) as refused:
        settled(dataset_dir="data", output_dir=path)
    remedy = re.search("Write '(.*)' for", str(refused.value))[1]
    assert settled(output_dir=remedy, path="$@output_dir + '/x'").get_parsed_content("path") == f"./{path}/x"


def test_a_path_is_taken_as_it_is_written_and_so_recorded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = {"dataset_dir": "/data/a#1", "output_dir": "~/b#2::x", "class_names": ["tumour#1"]}
    parser = settled(**given, data="@dataset_dir")
    for name, value in {**given, "output_dir": "/home/me/b#2::x"}.items():
        assert parser.get_parsed_content(name) == parser[name] == value
    assert parser.get_parsed_content("data") == "/data/a#1"


def test_a_path_may_be_an_expression_that_gives_one():
    imports = ["$import pathlib"]
    parser = settled(imports=imports, output_dir="runs", checkpoint="$pathlib.Path(@output_dir, 'model.pt')")
    assert parser.get_parsed_content("checkpoint") == "runs/model.pt"
    with pytest.raises(UserError, match=r"^checkpoint: 3 is not possible: give a path"):
        settled(seed=3, checkpoint="@seed")


class Word(Enum):
    SOFTMAX = "softmax"


class Somewhere:
    def __fspath__(self) -> str:
        return "there/a"


GIVEN = {
    "dataset_dir": (Path("data/a#1"), "data/a#1"),
    "cache_dir": (Somewhere(), "there/a"),
    "device": (torch.device("cpu"), "cpu"),
    "roi_size": ((32, 32, 16), [32, 32, 16]),
    "hu_window": (np.array([-5.0, 5.0]), [-5.0, 5.0]),
    "learning_rate": (np.float64(0.1), 0.1),
    "seed": (np.int64(3), 3),
    "page": (np.bool_(False), False),
    "kind": (torch.float16, "$torch.float16"),
    "activation": (Word.SOFTMAX, "softmax"),
    "nested": ({"size": torch.tensor([1, 2]), "places": (Path("a"),)}, {"size": [1, 2], "places": ["a"]}),
    "words": ({"slab_depth": "null", "names": ["null"]}, {"slab_depth": None, "names": ["null"]}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_a_program_gives_is_what_a_config_says(name):
    given, said = GIVEN[name]
    parser = settled(**{name: given})
    assert parser[name] == said and is_plain(parser[name])
    assert parser.get_parsed_content(name) == (given if name == "kind" else said)


CONFIG = """
imports: [$import desd_components, $import pathlib]
output_dir: runs
window: [1, 2]
page: true
spacing: median
initialize: [$desd_components.plain_errors()]
run: [$pathlib.Path(@output_dir).mkdir()]
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "train.yaml").write_text(CONFIG)
    return lambda run_id="run", **given: monai.bundle.run(run_id, config_file=tmp_path / "train.yaml", **given)


def test_a_program_runs_a_bundle_with_values_of_its_own(run, tmp_path):
    run(output_dir=tmp_path / "a#1", window=np.arange(2), page=np.bool_(True), spacing="null")
    assert (tmp_path / "a#1").is_dir()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"output": "runs"}, "output: the config has no such setting. Did you mean --output_dir"),
        ({"window": (number for number in (1, 2))}, "window: a config holds no generator"),
        ({"window": {1, 2}}, "window: a config holds no set"),
        ({"spacing": None}, "spacing None: MONAI passes over it. Give null"),
        ({"page": [False]}, "page .*: True or False stands there"),
        ({"output_dir": "null"}, "output_dir: None is not possible: give a path"),
        ({"run_id": "runs"}, "run runs: the config has nothing of that name to run. Give run"),
        ({"run_id": "window"}, "run window: the config has nothing of that name to run. Give run"),
    ],
)
def test_what_no_config_can_take_from_a_program_is_refused(run, given, words):
    with pytest.raises(RuntimeError) as ended:
        run(**given)
    assert re.search(words, str(innermost_user_error(ended.value)))
