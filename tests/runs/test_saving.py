"""The weights of a run are written while it goes on, with what is said of them."""

from types import SimpleNamespace

import torch
from tiny_pretraining import Run

from desd_components import SaveWeightsHandler, read_manifest


def test_weights_are_saved_with_their_manifest_at_the_interval_and_at_the_end(tiny_encoder, tmp_path):
    run = Run(tiny_encoder, epochs=3)
    run.train(SaveWeightsHandler(run.network.teacher.encoder, tmp_path / "encoder.pt", {"kind": "teacher"}, interval=2))
    assert read_manifest(tmp_path / "encoder.pt").items() >= {"epoch": 3, "kind": "teacher"}.items()
    for name, tensor in torch.load(tmp_path / "encoder.pt", weights_only=True).items():
        torch.testing.assert_close(tensor, run.network.teacher.encoder.state_dict()[name])


def validated(handler, epoch, score):
    """Let a handler see a validation after an epoch, in which the weight becomes the epoch's number."""
    torch.nn.init.constant_(handler.module.weight, epoch)
    handler(SimpleNamespace(state=SimpleNamespace(epoch=epoch, iteration=1, metrics={"dice": score})))


def best_in(folder):
    return SaveWeightsHandler(torch.nn.Linear(1, 1), folder / "model.pt", {"kind": "test"}, metric="dice")


def weight_in(folder):
    return torch.load(folder / "model.pt", weights_only=True)["weight"].item()


def test_the_best_weights_go_with_the_state_into_another_folder(tmp_path):
    first, second = best_in(tmp_path / "a"), best_in(tmp_path / "b")
    for epoch, score in enumerate((0.5, 0.7, 0.6), start=1):
        validated(first, epoch, score)
    second.load_state_dict(first.state_dict())
    assert weight_in(tmp_path / "a") == weight_in(tmp_path / "b") == 2
    assert read_manifest(tmp_path / "b" / "model.pt") == read_manifest(tmp_path / "a" / "model.pt")
    validated(second, 4, 0.65)
    assert weight_in(tmp_path / "b") == 2
    validated(second, 5, 0.75)
    assert weight_in(tmp_path / "b") == 5


def test_the_latest_weights_are_kept_while_no_validation_has_a_score(tmp_path):
    handler = best_in(tmp_path)
    for epoch, score in enumerate((float("nan"), float("nan"), 0.1, float("nan")), start=1):
        validated(handler, epoch, score)
    assert weight_in(tmp_path) == 3
