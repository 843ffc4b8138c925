"""An encoder for nnU-Net: all that its loader asks for is there, the tensors are ours, misfits are refused."""

import json

import pytest
import torch
from nnunet_files import PLAIN, RESIDUAL, write_plans
from random_weights import write_encoder

from desd_components import NnunetPlans, Preprocessing, UserError, build_encoder, read_manifest, save_weights
from desd_tools.pack.export import export

pytest.importorskip("dynamic_network_architectures")


def pretrained(folder, plans, **changes):
    """An encoder.pt as a pre-training by these plans leaves it."""
    encoder = build_encoder(**plans.encoder)
    settings = Preprocessing("image", None, "nnunet", plans={**plans.identity, **changes}).settings
    about = {"kind": "encoder", "architecture": encoder.architecture, "preprocessing": settings}
    save_weights(encoder, folder / "encoder.pt", about)
    return encoder


@pytest.fixture(params=[PLAIN, RESIDUAL], ids=["plain", "residual"])
def plans(request, tmp_path):
    return NnunetPlans(write_plans(tmp_path / "Dataset004_Hippocampus", request.param))


def exported(folder, planned, **more):
    arguments = {"format": "nnunet", "output": str(folder / "desd.pth"), "plans": str(planned.path)}
    export(str(folder / "encoder.pt"), **{**arguments, **more})
    return torch.load(folder / "desd.pth", weights_only=True)


def test_every_tensor_of_the_planned_network_is_there_and_the_encoders_are_ours(plans, tmp_path):
    from desd_tools.pack.nnunet import planned_network

    ours = pretrained(tmp_path, plans).network.state_dict()
    weights = exported(tmp_path, plans)["network_weights"]
    wanted = planned_network(plans).state_dict()
    assert {name: t.shape for name, t in weights.items()} == {name: t.shape for name, t in wanted.items()}
    assert all(torch.equal(weights[f"encoder.{name}"], tensor) for name, tensor in ours.items())
    assert read_manifest(tmp_path / "desd.pth")["architecture"] == plans.encoder


def test_the_adaptation_plan_names_encoder_and_stem_by_their_keys(plans, tmp_path):
    pretrained(tmp_path, plans)
    content = exported(tmp_path, plans)
    plan, weights = content["nnssl_adaptation_plan"], content["network_weights"]
    assert plan["architecture_plans"]["arch_class_name"] == plans.network["network_class_name"]
    assert plan["pretrain_plan"]["configurations"]["3d_fullres"]["patch_size"] == [12, 24, 24]
    for key in (plan["key_to_encoder"], plan["key_to_stem"], *plan["keys_to_in_proj"]):
        assert any(name.startswith(f"{key}.") for name in weights), key
    json.dumps(plan)


def test_plans_of_another_data_set_are_refused_unless_allowed(plans, tmp_path):
    pretrained(tmp_path, plans, dataset_name="Dataset005_Prostate")
    with pytest.raises(UserError, match=r"dataset_name was 'Dataset005_Prostate'.*--allow-other-plans true"):
        exported(tmp_path, plans)
    assert exported(tmp_path, plans, allow_other_plans=True)


def test_an_encoder_whose_stages_do_not_fit_the_plans_is_refused(plans, tmp_path):
    pretrained(tmp_path, plans)
    other = {**plans.network, "arch_kwargs": {**plans.network["arch_kwargs"], "features_per_stage": [4, 6, 10]}}
    wider = NnunetPlans(write_plans(tmp_path / "other" / "Dataset004_Hippocampus", other))
    with pytest.raises(UserError, match=r"features_per_stage of the encoder is \[4, 6, 8\], nnUNetPlans.json plans"):
        exported(tmp_path, wider)


def test_a_resnet_fits_no_plans(plans, tmp_path):
    write_encoder(tmp_path / "encoder.pt")
    with pytest.raises(UserError, match=r"of the encoder is .* pre-train by these, with nnunet"):
        exported(tmp_path, plans)
    assert not (tmp_path / "desd.pth").exists()


def test_plans_go_with_this_format_alone(plans, tmp_path):
    pretrained(tmp_path, plans)
    with pytest.raises(UserError, match="--format nnunet: goes with --plans"):
        exported(tmp_path, plans, plans=None)
    with pytest.raises(UserError, match="--format onnx: goes without --plans"):
        exported(tmp_path, plans, format="onnx", output=str(tmp_path / "x.onnx"))


def test_safetensors_of_an_encoder_whose_tensors_share_memory(plans, tmp_path):
    pytest.importorskip("safetensors")
    pretrained(tmp_path, plans)
    export(str(tmp_path / "encoder.pt"), "safetensors", str(tmp_path / "encoder.safetensors"))
