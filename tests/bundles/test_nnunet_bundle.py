"""nnU-Net's preprocessed cases pre-train the encoder of its plans, by one overlay."""

import pytest
from bundle_runs import error_line, run_bundle, succeed
from nnunet_files import write_case, write_plans

from desd_components import NnunetPlans, read_manifest

CONFIGS = "train small smoke nnunet"


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    pytest.importorskip("dynamic_network_architectures")
    path = write_plans(tmp_path_factory.mktemp("preprocessed") / "Dataset004_Hippocampus")
    for number in range(4):
        write_case(path.parent / "nnUNetPlans_3d_fullres", f"case_{number}", seed=number)
    return path


def pretrain(plans, folder, **settings):
    places = {"nnunet_plans": plans, "output_dir": folder / "run", "cache_dir": folder / "cache"}
    return run_bundle("desd_pretrain", CONFIGS, "training", max_epochs=1, warmup_steps=0, **places, **settings)


def test_the_plans_alone_say_cases_encoder_and_channels(plans, tmp_path):
    succeed(pretrain(plans, tmp_path))
    manifest, found = read_manifest(tmp_path / "run" / "encoder.pt"), NnunetPlans(plans)
    assert (manifest["architecture"], manifest["volumes"]) == (found.encoder, 4)
    assert manifest["preprocessing"]["plans"] == found.identity
    assert manifest["view_size"] == [12, 12, 16]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nnunet_configuration": "3d_lowres"}, "no preprocessed case: run `nnUNetv2_preprocess -d 004 -c 3d_lowres`"),
        ({"nnunet_plans": None}, "nnunet_plans: null. Name nnU-Net's plans"),
        ({"dataset_dir": "data/scans"}, "of another configuration than nnUNetPlans.json"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_one_line(plans, tmp_path, settings, words):
    assert words in error_line(pretrain(settings.pop("nnunet_plans", plans), tmp_path, **settings))
