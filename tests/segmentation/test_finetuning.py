"""Promises of `desd_components.segmentation.training`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from scan_files import write_json

from desd_components import (
    EarlyStop,
    LearningRateHandler,
    SegmentationNetwork,
    UserError,
    agree_with_encoder,
    save_weights,
)
from desd_components.scans.labelled import LabelledData
from desd_components.scans.preprocess import preprocessing_settings
from desd_components.segmentation.model import (
    model_manifest,
    network_from_manifest,
    segmentation_classes,
    segmentation_manifest,
)
from desd_components.segmentation.training import parameter_groups, section_of, split_of, write_split

SETTINGS = preprocessing_settings([1.0, 1.0, 1.0], "hu", [-1024, 1024])


@pytest.fixture
def network(tiny_encoder):
    return SegmentationNetwork(tiny_encoder, 3, decoder_width=8, decoder_norm="group")


RATES = {"whole": [1.0] * 7, "encoder_warmup": [1.0] * 7, "layerwise_decay": [1, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125]}


@pytest.mark.parametrize("preset", RATES)
def test_groups_hold_every_parameter_once_at_its_rate_and_decay_no_biases_and_norms(network, preset):
    groups = parameter_groups(network, preset, frozen_steps=5, decay=0.5, weight_decay=0.1)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    assert all({p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0} for group in groups)
    rates = {group["name"]: group["lr_scale"] for group in groups}
    parts = ("heads", "decoder", "stage_4", "stage_3", "stage_2", "stage_1", "stem")
    assert [rates[part] for part in parts] == RATES[preset]
    assert {group["name"] for group in groups if not group["muon"]} == {"heads", "heads_vectors"}
    resting = {group["name"] for group in groups if group["frozen_steps"]}
    awake = {"heads", "heads_vectors", "decoder", "decoder_vectors"}
    assert resting == (rates.keys() - awake if preset == "encoder_warmup" else set())


def trained(network: SegmentationNetwork, preset: str, steps: int) -> dict[str, torch.Tensor]:
    """How far each tensor moved in `steps` steps with two frozen ones."""
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(network, preset, frozen_steps=2, weight_decay=0.1), lr=1e-2)
    engine = Engine(lambda engine, batch: None)
    LearningRateHandler(optimizer, lambda step: 1e-2).attach(engine)
    engine.fire_event(Events.STARTED)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(1, 1, 16, 16, 16)).square().mean().backward()
        optimizer.step()
    return {name: (p.detach() - before[name]).abs().max() for name, p in network.named_parameters()}


def test_a_resting_encoder_does_not_move_at_all_and_then_does(network):
    moved = trained(network, "encoder_warmup", steps=2)
    assert not any(distance for name, distance in moved.items() if name.startswith("encoder."))
    assert all(distance for name, distance in moved.items() if name.endswith("conv.weight"))
    moved = trained(network, "encoder_warmup", steps=3)
    assert all(distance for name, distance in moved.items() if name.startswith("encoder.") and "weight" in name)


@pytest.mark.parametrize(("wrong", "words"), [({"preset": "some"}, "some"), ({"decay": 0.0}, "layer_decay=0.0")])
def test_unknown_presets_and_decays_are_refused(network, wrong, words):
    with pytest.raises(UserError, match=words):
        parameter_groups(network, **wrong)


def test_classes_asked_for_win_over_those_of_the_data_and_these_over_those_of_the_bundle(tmp_path):
    channels = {"outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}}}
    metadata = write_json(tmp_path / "metadata.json", {"network_data_format": channels})
    write_json(tmp_path / "dataset.json", {"labels": {"0": "background", "1": "liver"}})
    assert segmentation_classes(tmp_path, ["kidney"], metadata).names == ["background", "kidney"]
    assert segmentation_classes(tmp_path, None, metadata).names == ["background", "liver"]
    assert segmentation_classes(tmp_path / "absent", None, metadata).names == ["background", "spleen"]


@pytest.fixture
def model(network, tmp_path):
    """What a fine-tuning leaves."""
    manifest = segmentation_manifest(network, ["background", "a", "b"], "sigmoid", False, SETTINGS, [16, 16, 16])
    save_weights(network, tmp_path / "model.pt", manifest)
    return tmp_path / "model.pt"


@pytest.mark.parametrize(("regions", "single"), [(False, [1, 9]), (False, [0]), ([[1, 2], [2]], [3])])
def test_a_class_that_is_none_cannot_be_single(network, regions, single):
    with pytest.raises(UserError, match=r"no class has the label value (9|0|3); there are \[1, 2\]"):
        segmentation_manifest(network, ["background", "a", "b"], "softmax", regions, SETTINGS, [16] * 3, single=single)


def test_a_network_is_built_again_from_its_manifest_where_knobs_agree_or_say_nothing(network, model):
    manifest = model_manifest(model, spacing=[1, 1, 1], class_names="a,b", activation=None)
    network_from_manifest(manifest).load_state_dict(network.state_dict())
    assert manifest["window"] == [16, 16, 16]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"spacing": [2.0, 2.0, 2.0]}, r"spacing is \[1.0, 1.0, 1.0\] there, \[2.0"),
        ({"intensity": "zscore"}, "intensity is 'hu' there"),
        ({"window": [32, 32, 32]}, "window is"),
        ({"in_channels": 2}, "in_channels is 1 there, 2 asked for"),
    ],
    ids=str,
)
def test_a_knob_that_contradicts_the_manifest_is_refused(model, asked, words):
    with pytest.raises(UserError, match=words):
        model_manifest(model, **asked)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"architecture": None}, "`architecture` is a NoneType, not a dict"),
        ({"window": 32}, "`window` is a int, not a list"),
        ({"regions": "false"}, "`regions` is a str, not a bool or list"),
        ({"class_names": ["background", "a"]}, "names 2 classes, but the network has 3"),
        ({"decoder": "left out"}, "`decoder` is absent, not a dict"),
        ({"kind": "encoder"}, "kind is 'encoder', not 'segmentation'. Give the model.pt"),
    ],
    ids=str,
)
def test_a_manifest_that_was_edited_or_is_an_encoders_is_refused_with_the_entry(model, entry, words):
    content = {**json.loads(model.with_suffix(".json").read_text()), **entry}
    content = {name: value for name, value in content.items() if value != "left out"}
    model.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"model.json.*{words}.*(Copy it again from the run|fine-tuned first)"):
        model_manifest(model)


def test_other_preprocessing_than_the_encoder_saw_is_refused_unless_allowed(tiny_encoder, tmp_path):
    path = tmp_path / "encoder.pt"
    save_weights(tiny_encoder, path, {"preprocessing": preprocessing_settings(None, "zscore", [-1024, 1024])})
    with pytest.raises(UserError, match="intensity was 'zscore', now 'hu'"):
        agree_with_encoder(path, SETTINGS)
    agree_with_encoder(path, SETTINGS, allow=True)
    agree_with_encoder(None, SETTINGS)
    agree_with_encoder(path, preprocessing_settings(None, "zscore", [-9, 9]))  # to which that window does not matter


DATA = LabelledData(["background", "a"], [{"image": "1.nii", "label": "1.nii"}], [{"image": "2.nii", "label": "2.nii"}])


def test_split_of_a_run_is_found_beside_its_checkpoint(tmp_path):
    assert split_of(tmp_path / "model.pt") is None
    write_split(DATA, tmp_path)
    assert json.loads(Path(split_of(tmp_path / "model.pt") or "").read_text())["validation"] == ["2"]


def test_sections_are_taken_by_name_or_all_together():
    assert section_of(DATA, "validation") == DATA.validation
    assert len(section_of(DATA, "all")) == 2
    with pytest.raises(UserError, match="--data_split"):
        section_of(DATA, "test")


def early_stopped(*scores: float, epochs: int = 6, state: dict[str, Any] | None = None) -> tuple[Engine, EarlyStop]:
    """A trainer whose validations give `scores`, from its first epoch or from where `state` was saved."""
    validator, coming = Engine(lambda engine, batch: None), iter(scores)
    trainer = Engine(lambda engine, batch: None)

    @validator.on(Events.EPOCH_COMPLETED)
    def score(engine: Engine) -> None:
        engine.state.metrics["mean_dice"] = next(coming)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run([0]))
    early_stop = EarlyStop(validator, patience=2)
    early_stop.attach(trainer)
    if state is not None:
        early_stop.load_state_dict(state)
    trainer.run([0], max_epochs=epochs)
    return trainer, early_stop


def test_early_stop_ends_training_after_some_validations_without_progress():
    trainer, _ = early_stopped(0.1, 0.3, 0.2, 0.3, 0.25, 0.9)
    assert trainer.state.epoch == 4  # the best in epoch 2, no better one in 3 and 4


def test_a_run_that_goes_on_goes_on_counting_and_stays_stopped_where_it_was():
    _, first = early_stopped(0.1, 0.3, 0.2, epochs=3)
    assert (first.state_dict()["counter"], first.state_dict()["best_score"]) == (1, 0.3)
    trainer, second = early_stopped(0.3, 0.9, state=first.state_dict())
    assert trainer.state.epoch == 1
    trainer, _ = early_stopped(state=second.state_dict())
    assert (trainer.state.epoch, trainer.state.iteration) == (0, 0)
