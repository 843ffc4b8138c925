"""A run that goes on has all settings of before, but for those that change no step of it."""

import pytest
from bundle_runs import ROOT, config_files
from knob_runs import knobs
from monai.bundle import ConfigParser

from desd_components.runs.same_run import MAY_DIFFER

#: the knobs that decide the steps of a run, or which of its weights are best
FIXED = {
    *("plan", "minutes", "seed", "amp", "accumulation_steps", "encoder", "in_channels", "spacing", "intensity"),
    "hu_window",
    *("learning_rate", "final_learning_rate", "warmup_steps"),
    # pre-training
    *("init_checkpoint", "view_size", "num_prototypes", "teacher_momentum"),
    "frozen_prototype_epochs",
    # fine-tuning
    *("encoder_checkpoint", "samples_per_epoch", "roi_size", "activation", "regions", "preset"),
    *("rotation", "single"),
}
BUNDLES = ("desd_pretrain", "desd_seg_finetune")


def config_of(bundle):
    return ConfigParser.load_config_file(str(ROOT / config_files(bundle, "train")[0]))


def may_differ(bundle):
    return {*MAY_DIFFER, *config_of(bundle)["run_folder"]["may_differ"], "max_epochs"}


@pytest.mark.parametrize("bundle", BUNDLES)
def test_each_knob_is_in_exactly_one_of_the_two_lists(bundle):
    free = {name for name in may_differ(bundle) if "#" not in name}
    fixed = FIXED | ({"val_interval"} if bundle == "desd_seg_finetune" else set())  # chooses the best model there
    for knob in knobs(bundle, "train"):
        assert (knob in free) != (knob in fixed), knob


@pytest.mark.parametrize("bundle", BUNDLES)
def test_what_may_differ_is_there(bundle):
    config = config_of(bundle)
    assert [name for name in config["run_folder"]["may_differ"] if name not in ConfigParser(config)] == []


def test_what_may_differ_in_all_bundles_is_in_one_of_them_at_least():
    parsers = [ConfigParser(config_of(bundle)) for bundle in BUNDLES]
    assert [name for name in MAY_DIFFER if not any(name in parser for parser in parsers)] == []


def parsed(config):
    parser = ConfigParser(config)
    return parser.get_parsed_content("settings")


def settings_of(**config):
    settings = {"_target_": "desd_components.run_settings", "may_differ": ["settings", "place", "run#around"]}
    return parsed({"settings": settings, **config})


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


def test_what_the_plan_gives_counts_as_the_value_that_it_gave_in_a_list_too():
    found = settings_of(planned={"size": 24}, view=[16, "$@planned.get('size')"])
    assert found["view"] == [16, 24]


def test_a_value_counts_the_same_from_yaml_and_from_the_command_line(tmp_path):
    assert settings_of(a=(1, 2), c=tmp_path) == settings_of(a=[1, 2], c=str(tmp_path))


def test_facts_stand_in_the_place_of_entries():
    settings = {"_target_": "desd_components.run_settings", "may_differ": ["settings"], "epochs": "@planned"}
    assert parsed({"settings": settings, "planned": 3, "epochs": 5}) == {"planned": 3, "epochs": 3}
