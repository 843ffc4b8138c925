import torch

from desd_components import set_determinism


def test_cudnn_repeats_every_bit_unless_it_may_try_which_kernels_are_fastest():
    cudnn = torch.backends.cudnn
    for fastest in (True, False):
        set_determinism(7, cudnn_benchmark=fastest)
        assert (cudnn.benchmark, cudnn.deterministic) == (fastest, not fastest)
        drawn = torch.rand(1)
        torch.manual_seed(7)
        assert torch.equal(drawn, torch.rand(1))
