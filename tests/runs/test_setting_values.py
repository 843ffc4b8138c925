"""Values that mean nothing are refused by the setting's name; those of all configs mean something."""

from __future__ import annotations

import pytest
from bundle_runs import ROOT
from monai.bundle import ConfigParser

from desd_components.base.errors import UserError
from desd_components.runs.command import RULES, refuse_odd_values
from desd_components.runs.config import place_of, walk

ODD = {
    "output_dir": 2025,
    "init_checkpoint": 3.5,
    "num_workers": -1,
    "val_interval": 0,
    "roi_size": [16, 16],
    "hu_window": [5.0, -5.0],
    "seed": True,
    "device": "foo",
    "learning_rate": -1.0,
    "slab_depth": 1.5,
    "trim_wider_than": -1,
    "save_minutes": -1,
    "overlap": 1.0,
    "weight_decay": float("nan"),
    "samples_per_epoch": float("inf"),
}


@pytest.mark.parametrize(("name", "value"), ODD.items(), ids=ODD)
def test_an_odd_value_is_refused_by_its_name(name, value):
    with pytest.raises(UserError, match=f"^{name}: .* means nothing: give "):
        refuse_odd_values({name: value})


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("bundles/*/configs/*.yaml")), ids=lambda file: f"{file.parts[-3]} {file.stem}"
)
def test_the_values_of_every_config_mean_something(file):
    refuse_odd_values(ConfigParser.load_config_file(str(file)))


@pytest.mark.parametrize("settings", [{"train#dataset#slab_depth": 0}, {"train": {"dataset": {"slab_depth": 0}}}])
def test_a_value_is_looked_at_where_it_is_used_too(settings):
    with pytest.raises(UserError, match=r"^train#dataset#slab_depth: 0 means nothing: give a whole number"):
        refuse_odd_values(settings)


def test_expressions_references_and_null_are_passed_over():
    refuse_odd_values({"num_workers": "$os.cpu_count()", "overlap": "@displayable_configs#overlap", "roi_size": "null"})


def test_every_rule_is_of_a_setting_that_exists():
    configs = [ConfigParser.load_config_file(str(file)) for file in ROOT.glob("bundles/*/configs/*.yaml")]
    assert set(RULES) <= {place_of(place[-1])[-1] for config in configs for place, _ in walk(config)}
