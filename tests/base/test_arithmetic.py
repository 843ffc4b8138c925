"""Layers that compute the plain form of torch at less cost."""

import copy
import math
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
from monai.inferers import SimpleInferer
from torch import nn
from torch.nn import functional

from desd_components import DenseDistillationNetwork, ProjectionHead, ResNet3DEncoder, UserError, ViewsWithPoints
from desd_components.base import arithmetic
from desd_components.base.arithmetic import (
    AffineInstanceNorm3d,
    AutocastInferer,
    FusedSGD,
    Muon,
    cosines,
    orthogonalised,
    require_compiler,
    with_z_first,
    z_first,
    z_last,
)


def plain_cosines(embedding, prototypes):
    return functional.linear(embedding, functional.normalize(prototypes))


def drawn(*shape, scale=1.0):
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def pair():
    """Embeddings, and prototypes of all lengths."""
    lengths = torch.logspace(-3, 3, 7, dtype=torch.float64)[:, None]
    return drawn(5, 4), (lengths * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()


def test_cosines_and_their_gradients_are_those_of_the_plain_form(pair):
    weights = torch.randn(5, 7, dtype=torch.float64)
    wanted, found = plain_cosines(*pair), cosines(*pair)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)
    gradients = [torch.autograd.grad((weights * logits).sum(), pair) for logits in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("frozen", [0, 1])
def test_no_gradient_is_computed_that_nobody_asked_for(pair, frozen):
    pair[frozen].requires_grad_(False)
    cosines(*pair).sum().backward()
    assert pair[frozen].grad is None and pair[1 - frozen].grad is not None


def test_a_prototype_of_zeros_has_a_gradient_that_is_finite():
    embedding, prototypes = drawn(5, 4), torch.zeros(7, 4, dtype=torch.float64, requires_grad=True)
    cosines(embedding, prototypes).sum().backward()
    assert torch.isfinite(prototypes.grad).all()


def test_the_gradient_of_prototypes_is_all_that_has_their_size():
    embedding, prototypes = torch.randn(2, 16, requires_grad=True), torch.randn(1000, 16, requires_grad=True)
    size = prototypes.nbytes
    with torch.profiler.profile(profile_memory=True) as seen:
        cosines(embedding, prototypes).sum().backward()
    made = [event.name for event in seen.events() if event.self_cpu_memory_usage >= size]
    assert made == ["aten::mm"]


def test_a_head_is_exported_and_compiled_as_it_is():
    head, features = ProjectionHead(6, 5, hidden=8, bottleneck=4).eval(), torch.randn(3, 6)
    wanted = head(features)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(head, (features,)).module()(features), wanted)
        torch.testing.assert_close(torch.jit.trace(copy.deepcopy(head), features)(features), wanted)
    torch.testing.assert_close(torch.jit.script(cosines)(features, features), cosines(features, features))
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)(features)
    torch.testing.assert_close(compiled, wanted)
    compiled.sum().backward()
    assert head.prototypes.grad is not None


def test_compiling_without_a_compiler_is_refused_in_one_line_where_it_is_wanted():
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        require_compiler(False, "cpu")
        with pytest.raises(UserError, match=r"^compile: true fails here \(.*compiler.*\): use compile: false.$"):
            require_compiler(True, "cpu")


def test_affine_instance_norm_is_torch_s_own_to_rounding_with_its_weights_and_refusal():
    plain, ours = nn.InstanceNorm3d(6, affine=True).double(), AffineInstanceNorm3d(6).double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(plain.state_dict())
    x = drawn(2, 6, 3, 4, 5, scale=9.0)
    wanted, found = plain(x), ours(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="one voxel"):
        ours(torch.ones(2, 6, 1, 1, 1))
    weights = torch.randn_like(x)
    gradients = [
        torch.autograd.grad((weights * y).sum(), [x, *norm.parameters()])
        for norm, y in ((plain, wanted), (ours, found))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_fused_sgd_goes_torch_s_own_way_though_a_tensor_waits_for_its_first_gradient(kind):
    start = [torch.randn(4, 3, dtype=kind), torch.randn(3, dtype=kind)]
    plain, fused = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizers = [torch.optim.SGD(plain, **settings), FusedSGD(fused, **settings)]
    for step in range(4):
        gradients = [torch.randn_like(tensor) if step or number else None for number, tensor in enumerate(start)]
        for parameters, optimizer in zip((plain, fused), optimizers, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()
            optimizer.step()
        assert step or torch.equal(fused[0], start[0])
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("kind", [FusedSGD, Muon])
def test_hooks_are_called_once_a_step(kind):
    """A class with a `step` of its own would call them twice."""
    kind.__base__([nn.Parameter(torch.ones(2))])
    optimizer, calls = kind([nn.Parameter(torch.ones(2))], 0.1, 0.9), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    optimizer.step()
    assert calls == [1]


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """As it is written in the paper, on the matrix itself."""
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(16, 27), (48, 16), (13, 16), (64, 1728)])
def test_a_matrix_is_turned_into_the_orthogonal_one_nearest_to_it(shape):
    matrix = torch.randn(shape, dtype=torch.float64)
    found = orthogonalised(matrix)
    torch.testing.assert_close(found, newton_schulz(matrix), rtol=1e-9, atol=1e-9)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ found @ right.T
    assert inside.diagonal().min() > 0.6 and inside.diagonal().max() < 1.25
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), rtol=0, atol=1e-9)


def test_a_kernel_without_a_gradient_in_it_stays_where_it_is():
    assert not orthogonalised(torch.zeros(4, 6)).any()


def stepped(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int = 3) -> None:
    for step in range(steps):
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + number))
        optimizer.step()


def muon_parameters() -> list[nn.Parameter]:
    """A kernel, a kernel of the last layer, a matrix and a bias."""
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((8, 4, 3, 3, 1), (3, 8, 1, 1, 1), (6, 4), (8,))]


def muon_of(parameters: list[nn.Parameter], **settings: float) -> Muon:
    kernel, last, *rest = parameters
    return Muon([{"params": [kernel, *rest]}, {"params": [last], "muon": False}], 0.01, weight_decay=0.1, **settings)


def test_muon_moves_kernels_by_as_much_as_adamw_would_and_all_else_just_as_adamw():
    ours, others, start = muon_parameters(), muon_parameters(), muon_parameters()
    stepped(muon_of(ours), ours, steps=1)
    stepped(torch.optim.AdamW(others, 0.01, weight_decay=0.1), others, steps=1)
    torch.testing.assert_close(ours[1:], others[1:])
    moved = (ours[0] - 0.999 * start[0]).flatten(1)
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.15)
    boosted = muon_parameters()
    stepped(muon_of(boosted, boost=2.0), boosted, steps=1)
    torch.testing.assert_close((boosted[0] - 0.999 * start[0]).flatten(1), 2 * moved)


def test_muon_goes_on_from_its_state_bit_for_bit():
    whole, first, second = muon_parameters(), muon_parameters(), muon_parameters()
    stepped(muon_of(whole), whole)
    optimizer = muon_of(first)
    stepped(optimizer, first, steps=2)
    for parameter, there in zip(second, first, strict=True):
        parameter.data.copy_(there)
    resumed = muon_of(second)
    resumed.load_state_dict(optimizer.state_dict())
    for number, parameter in enumerate(second):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(20 + number))
    resumed.step()
    assert all(torch.equal(one, other) for one, other in zip(whole, second, strict=True))


@pytest.mark.parametrize(("amp", "computed"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_network_computes_in_bfloat16_where_it_is_asked_to_and_float32_comes_out(amp, computed):
    network, seen = nn.Conv3d(1, 1, 1), []
    network.register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    assert AutocastInferer(SimpleInferer(), amp)(torch.rand(1, 1, 4, 4, 4), network).dtype == torch.float32
    assert seen == [computed]


@pytest.mark.parametrize(("flags", "lines"), [("fpu avx2", 1), ("fpu avx512_bf16", 0), ("fp asimd bf16", 0), (None, 0)])
def test_a_processor_that_emulates_bfloat16_is_named_once(flags, lines, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(arithmetic, "PROCESSOR", tmp_path / "cpuinfo")
    if flags:
        arithmetic.PROCESSOR.write_text(f"processor: 0\nflags: {flags}\n")
    arithmetic._say_if_emulated.cache_clear()
    for _ in range(2):
        AutocastInferer(SimpleInferer())(torch.rand(1, 1, 2, 2, 2), torch.nn.Identity())
    assert [record.getMessage().count("--amp false") for record in caplog.records] == [1] * lines
    AutocastInferer(SimpleInferer(), amp=False)(torch.rand(1, 1, 2, 2, 2), torch.nn.Identity())
    assert len(caplog.records) == lines


@pytest.mark.parametrize("points", [False, True])
def test_student_and_teacher_compute_in_bfloat16_but_for_their_heads(points):
    encoder = ResNet3DEncoder(depth=10, width=8, norm="group", stem_kernel=3, stem_stride=1, stem_pool=False)
    network = DenseDistillationNetwork(encoder, 8, dense_prototypes=8, head_hidden=8).eval()
    views: Any = [torch.randn(2, 1, 24, 24, 24) for _ in range(2)]
    place = torch.rand(2, 2, 5, 3), torch.tensor([True, True]), torch.zeros(2, 2, 3)
    views, network = (ViewsWithPoints(views, *place), network) if points else (views, network.network)
    seen: set[torch.dtype] = set()
    hooks = [encoder.stem[0], network.teacher.encoder.stage_modules[3]]
    for module in hooks:
        module.register_forward_hook(lambda module, given, result: seen.add(result.dtype))
    output = AutocastInferer(SimpleInferer())(views, network)
    assert seen == {torch.bfloat16}
    assert {output.student_logits.dtype, output.teacher_logits.dtype, *(f.dtype for f in output.pooled)} == {
        torch.float32
    }
    torch.testing.assert_close(output.student_logits, network(views).student_logits, rtol=0, atol=0.05)


FAULTS = """
import resource, torch
from desd_components import keep_freed_memory

def faults():
    torch.ones(2**23)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_a_large_tensor_takes_over_the_memory_of_the_one_before():
    """In a process of its own, for what others have left behind would serve as well."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, kept = map(int, done.stdout.split())
    assert before > 1000 and kept < before / 2


@pytest.mark.parametrize("stride", [1, 2, (2, 2, 1), (1, 2, 3)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_of_maps_with_z_first_gives_the_same_values_and_gradients(kernel, stride):
    plain = nn.Conv3d(2, 3, kernel, stride=stride, padding=kernel // 2).double()
    x = torch.randn(2, 2, 9, 8, 5, dtype=torch.float64)
    expected = plain(x)
    expected.square().sum().backward()
    gradient = plain.weight.grad.clone()
    plain.zero_grad()
    found = z_last(with_z_first(plain)(z_first(x)))
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(plain.weight.grad, gradient)


def test_a_kernel_and_its_gradient_lie_in_memory_as_maps_do_also_once_loaded():
    layer = with_z_first(nn.Conv3d(2, 3, 3, padding=1))
    layer.load_state_dict(nn.Conv3d(2, 3, 3).state_dict())
    layer(z_first(torch.randn(1, 2, 4, 4, 4))).sum().backward()
    for kernel in (layer.weight, layer.weight.grad):
        assert kernel.shape == (3, 2, 3, 3, 3) and kernel.permute(0, 1, 4, 2, 3).is_contiguous()


@pytest.mark.parametrize("is_z_first", [True, False])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [((7, 7, 2), 3, 1), ((6, 5, 2), (1, 3, 3), 1), ((7, 1, 4), (3, 3, 1), 2), ((2, 6, 7), 3, 1), ((6, 6, 4), 5, 1)],
    ids=str,
)
def test_kernels_on_small_maps_learn_in_bfloat16_what_they_learn_in_float32(is_z_first, shape, kernel, stride):
    sides = (kernel,) * 3 if isinstance(kernel, int) else kernel
    network = nn.Conv3d(16, 16, kernel, stride=stride, padding=[side // 2 for side in sides])
    if is_z_first:
        with_z_first(network)
    maps, gradients = torch.randn(2, 16, *shape), []
    for amp in (False, True):
        unwritten = [torch.full((size,), math.nan) for size in (10**3, 10**5, 10**6)]
        del unwritten
        network.zero_grad()
        AutocastInferer(SimpleInferer(), amp)(z_first(maps) if is_z_first else maps, network).square().mean().backward()
        gradients.append(network.weight.grad.clone())
    assert (gradients[0] - gradients[1]).abs().max() <= 0.03 * gradients[0].abs().max()
