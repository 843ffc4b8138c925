"""The weights of a run are written while it goes on, with what is said of them."""

import torch
from tiny_pretraining import Run

from desd_components import SaveWeightsHandler, read_manifest


def test_weights_are_saved_with_their_manifest_at_the_interval_and_at_the_end(tiny_encoder, tmp_path):
    run = Run(tiny_encoder, epochs=3)
    run.train(SaveWeightsHandler(run.network.teacher.encoder, tmp_path / "encoder.pt", {"kind": "teacher"}, interval=2))
    assert (read_manifest(tmp_path / "encoder.pt")["epoch"], read_manifest(tmp_path / "encoder.pt")["kind"]) == (
        3,
        "teacher",
    )
    for name, tensor in torch.load(tmp_path / "encoder.pt", weights_only=True).items():
        torch.testing.assert_close(tensor, run.network.teacher.encoder.state_dict()[name])
