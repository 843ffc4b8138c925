"""The reconstruction baseline: what is hidden, what is judged, and the overlay of the label curve that trains it."""

import pytest
import torch
from bundle_runs import config_files, history, run_files, succeed
from scan_files import write_scan

from benchmarks.reconstruction import Hidden, PrepareMaskedViews, ReconstructionLoss, ReconstructionNetwork
from desd_components import MultiViews, ResNet3DEncoder, UserError, ViewRecipe, load_encoder, read_manifest

SMALL = {"depth": 10, "width": 8, "norm": "group", "stem_kernel": 3, "stem_stride": 1, "stem_pool": False}


@pytest.fixture
def prepare():
    recipe = ViewRecipe(size=[12, 12, 10], scale=[[0.9, 1.1]] * 3)
    return PrepareMaskedViews(MultiViews([recipe, recipe], seed=3), block=4, share=0.6)


def batch(epoch: int = 1) -> dict[str, torch.Tensor]:
    image = torch.randn(3, 1, 16, 16, 14, generator=torch.Generator().manual_seed(0))
    size = torch.tensor(image.shape[2:]).expand(3, 3)
    return {"image": image, "context_size": size, "index": torch.arange(3), "epoch": torch.full((3,), epoch)}


def test_hidden_voxels_are_zero_and_the_others_are_as_they_were(prepare):
    seen, hidden = prepare(batch())
    mask = hidden.mask.expand_as(seen)
    assert seen.shape == hidden.views.shape == (6, 1, 12, 12, 10)
    assert not seen[mask].any() and torch.equal(seen[~mask], hidden.views[~mask])
    assert 0.4 < hidden.mask.float().mean() < 0.8


def test_what_is_hidden_comes_in_blocks_and_depends_on_epoch_sample_and_view_alone(prepare):
    mask = prepare(batch())[1].mask
    blocks = mask[:, 0, :12, :12, :8].unflatten(3, (2, 4)).unflatten(2, (3, 4)).unflatten(1, (3, 4))
    assert torch.equal(blocks.amin(dim=(2, 4, 6)), blocks.amax(dim=(2, 4, 6)))
    assert torch.equal(mask, prepare(batch())[1].mask)
    assert not torch.equal(mask, prepare(batch(epoch=2))[1].mask)
    assert len({tuple(m.flatten().tolist()) for m in mask}) == 6


def test_the_loss_is_the_mean_squared_error_of_hidden_voxels_alone():
    views, mask = torch.randn(2, 1, 4, 4, 4), torch.rand(2, 1, 4, 4, 4) < 0.5
    output = views + mask * 3.0 + ~mask * 100.0
    assert ReconstructionLoss()(output, Hidden(views, mask)).item() == pytest.approx(9.0, rel=1e-5)


def test_every_stage_of_the_encoder_gets_a_gradient():
    network = ReconstructionNetwork(ResNet3DEncoder(**SMALL), width=4)
    views = torch.randn(2, 1, 16, 16, 16)
    output = network(views)
    assert output.shape == views.shape
    ReconstructionLoss()(output, Hidden(views, torch.ones(2, 1, 16, 16, 16, dtype=torch.bool))).backward()
    for stage in network.encoder.stage_modules:
        assert all(p.grad.abs().sum() > 0 for p in stage.parameters() if p.ndim > 1)


@pytest.mark.parametrize("settings", [{"block": 0}, {"share": 0.0}, {"share": 1.0}])
def test_a_mask_of_nothing_or_of_all_is_refused(prepare, settings):
    with pytest.raises(UserError, match="masking"):
        PrepareMaskedViews(prepare.multi_views, **settings)


def test_the_overlay_trains_the_encoder_of_the_small_recipe(tmp_path):
    for number in range(3):
        write_scan(tmp_path / "scans" / f"case_{number}.nii.gz", (30, 32, 28), seed=number)
    files = [*config_files("desd_pretrain", "train", "small"), "results/reconstruction.yaml"]
    few = {"max_epochs": 2, "batch_size": 3, "warmup_steps": 0}
    few |= {"samples_per_epoch": 3, "run_folder#record_interval": 1}
    places = {"dataset_dir": tmp_path / "scans", "cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run"}
    succeed(run_files(files, "training", **few, **places))
    losses = [record["loss"] for record in history(tmp_path / "run") if "loss" in record]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
    path = tmp_path / "run" / "encoder.pt"
    assert read_manifest(path)["half"] == "masked reconstruction"
    assert load_encoder(path).architecture["norm"] == "group"
