"""A run that goes on has all settings of before, but for those that change no step of it."""

from __future__ import annotations

import pytest
from bundle_runs import ROOT, config_files
from knob_runs import knobs
from monai.bundle import ConfigParser

#: the only knobs that a run may go on with changed: none of them has a part in a weight, or in which weights are best
FREE = {
    "bundle_root": "a place",
    "output_dir": "a place; the state of another one is given by resume",
    "cache_dir": "a place",
    "dataset_dir": "a place; the data are compared by a hash",
    "data_split": "chooses scans, which are compared",
    "data_sections": "chooses scans, which are compared",
    "on_bad_volume": "chooses scans, which are compared",
    "val_fraction": "chooses scans, which are compared",
    "num_labels": "chooses scans, which are compared",
    "class_names": "the classes are compared, whoever names them",
    "resume": "how it goes on",
    "extend": "how it goes on",
    "max_epochs": "compared as what the schedules are made for, so that extend may add epochs",
    "device": "a machine",
    "num_workers": "speed",
    "batch_size": "compared as the volumes of a step, for another number of processes shares them otherwise",
    "sw_batch_size": "speed",
    "page": "shows",
    "record_interval": "shows",
    "val_interval": "shows: the scores of a pre-training choose nothing",
    "val_volumes": "shows: the scores of a pre-training choose nothing",
    "save_interval": "saves",
    "save_minutes": "saves",
    "max_skipped_steps": "when a run ends; one that ended so is to go on",
    "on_collapse": "when a run ends; one that ended so is to go on",
    "allow_other_preprocessing": "permits",
}
CHOOSING = {"desd_seg_finetune": {"val_interval", "batch_size"}}  # validations choose the best model there


def parsed(config):
    parser = ConfigParser(config)
    return parser.get_parsed_content("settings")


def settings_of(**config):
    settings = {"_target_": "desd_components.run_settings", "may_differ": ["settings", "place", "run#around"]}
    return parsed({"settings": settings, **config})


def may_differ(bundle):
    return ConfigParser.load_config_file(str(ROOT / config_files(bundle, "train")[0]))["state"]["settings"][
        "may_differ"
    ]


@pytest.mark.parametrize("bundle", ["desd_pretrain", "desd_seg_finetune"])
def test_only_knobs_with_a_reason_may_differ(bundle):
    known = knobs(bundle, "train")
    free = set(may_differ(bundle)) | {"max_epochs"}
    assert known & free == (known & set(FREE)) - CHOOSING.get(bundle, set())


@pytest.mark.parametrize("bundle", ["desd_pretrain", "desd_seg_finetune"])
def test_what_may_differ_is_there(bundle):
    parser = ConfigParser()
    parser.read_config(str(ROOT / config_files(bundle, "train")[0]))
    assert [name for name in may_differ(bundle) if name not in parser] == []


def test_every_entry_counts_that_is_not_free():
    config = {
        "rate": 0.1,
        "place": "here",
        "loss": {"_target_": "Loss", "weights": [1, 2]},
        "run": {"around": {"a": 1}},
    }
    assert settings_of(**config) == {"rate": 0.1, "loss#_target_": "Loss", "loss#weights": [1, 2]}


def test_lists_of_components_are_taken_apart_and_references_count_as_written():
    found = settings_of(rate=1, terms=["@a", "@b"], views=[{"_target_": "View", "size": "$3 * @rate"}])
    assert found == {"rate": 1, "terms": ["@a", "@b"], "views#0#_target_": "View", "views#0#size": "$3 * @rate"}


def test_a_value_counts_the_same_from_yaml_and_from_the_command_line(tmp_path):
    assert settings_of(a=(1, 2), b="null", c=tmp_path) == settings_of(a=[1, 2], b=None, c=str(tmp_path))


def test_facts_stand_in_the_place_of_entries():
    settings = {"_target_": "desd_components.run_settings", "may_differ": ["settings"], "epochs": "@planned"}
    assert parsed({"settings": settings, "planned": 3, "epochs": 5}) == {"planned": 3, "epochs": 3}
