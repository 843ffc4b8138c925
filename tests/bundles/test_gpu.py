"""What only a GPU can show; skipped, saying so, where there is none."""

import pytest
import torch

from desd_components import (
    DeepSelfDistillationLoss,
    DeepSelfDistillationNetwork,
    MultiViews,
    ResNet3DEncoder,
    ViewRecipe,
    decay_groups,
    encoder_from,
    save_weights,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing of this was run"),
]


def full_size(batch=32, prototypes=60_000):
    encoder = ResNet3DEncoder()
    network = DeepSelfDistillationNetwork(encoder, prototypes).cuda()
    return (
        network,
        DeepSelfDistillationLoss(prototypes).cuda(),
        [torch.randn(batch, 1, 96, 96, 16).cuda() for _ in "12"],
    )


def test_twenty_full_size_steps_fit_and_move_the_teacher():
    network, loss, views = full_size()
    optimizer = torch.optim.SGD(decay_groups(network.student, 1e-6), lr=0.01, momentum=0.9)
    before = network.teacher.encoder.stem[0].weight.clone()
    for _ in range(20):
        optimizer.zero_grad(set_to_none=True)
        value = loss(network(views))
        value.backward()
        optimizer.step()
        network.update_teacher(0.996)
    assert torch.isfinite(value)
    assert not torch.equal(before, network.teacher.encoder.stem[0].weight)


def test_bfloat16_loss_is_within_one_percent_of_float32():
    network, loss, views = full_size(batch=8)
    with torch.no_grad():
        exact = loss(network(views)).item()
        loss.center.zero_()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            rough = loss(network(views)).item()
    assert rough == pytest.approx(exact, rel=0.01)


def test_views_without_noise_are_those_of_the_cpu():
    recipe = {"size": [24, 24, 12], "scale": [[0.8, 1.2], [0.8, 1.2], None], "flip_probability": [0.5, 0.5, 0.5]}
    recipe |= {"blur_sigma": [0.1, 2.0], "contrast": [0.75, 1.25], "gamma": [0.7, 1.5]}
    views = MultiViews([ViewRecipe(**recipe), ViewRecipe(**recipe)], seed=1)
    image, size = torch.randn(4, 1, 40, 44, 16), torch.tensor([[40, 44, 16]] * 4)
    keys = (size, torch.arange(4), torch.ones(4, dtype=torch.long))
    for on_cpu, on_gpu in zip(views(image, *keys), views(image.cuda(), *keys), strict=True):
        assert on_gpu.is_cuda
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_moves_from_the_gpu_to_the_cpu_and_back(tmp_path):
    encoder = ResNet3DEncoder(depth=10, width=8, stem_kernel=3, stem_stride=1, stem_pool=False).cuda()
    save_weights(encoder, tmp_path / "encoder.pt", {"architecture": encoder.architecture})
    loaded = encoder_from(tmp_path / "encoder.pt")
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(x), encoder.eval()(x.cuda()).cpu(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(loaded.cuda()(x.cuda()), encoder(x.cuda()))
