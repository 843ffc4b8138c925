"""The published network's steps by themselves, on given views: mixed precision, cuDNN's choices, `torch.compile`."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.pairs import ratios, spread, time_in_turn
from desd_components import (
    DeepSelfDistillationLoss,
    DeepSelfDistillationNetwork,
    FusedSGD,
    MultiViews,
    ResNet3DEncoder,
    ViewRecipe,
    decay_groups,
)

from .promise import Card, Found

WITHIN = 0.01  # of a float32 loss
SLOWER = 1.05  # than what it is to make faster: more is a promise broken


class Step:
    """A whole step at each call: both halves, loss, backward pass, optimiser, teacher.

    Args:
        card: full size there, or tiny.
        amp: bfloat16.
        compiled: through `torch.compile`, in one graph.
        fastest: cuDNN picks its fastest kernels, whether or not they repeat bit for bit.
    """

    def __init__(self, card: Card, amp: bool = False, compiled: bool = False, fastest: bool = False) -> None:
        torch.manual_seed(0)
        self.card, self.amp, self.fastest = card, amp, fastest
        small: dict[str, Any] = {"depth": 10, "width": 8, "stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
        prototypes, batch, size = (64, 2, (16, 16, 16)) if card.quick else (60_000, 32, (96, 96, 16))
        encoder, hidden = ResNet3DEncoder(**(small if card.quick else {})), 32 if card.quick else 2048
        self.network = DeepSelfDistillationNetwork(encoder, prototypes, head_hidden=hidden).to(card.device)
        self.loss = DeepSelfDistillationLoss(prototypes).to(card.device)
        self.optimizer = FusedSGD(decay_groups(self.network.student, 1e-6), lr=0.01, momentum=0.9)
        self.views = [torch.randn(batch, 1, *size).to(card.device) for _ in "12"]
        backend = "inductor" if card.on_gpu else "eager"  # the rehearsal needs no C++ compiler
        self.forward: Any = torch.compile(self.network, fullgraph=True, backend=backend) if compiled else self.network

    def judged(self) -> torch.Tensor:
        """The loss of the views."""
        with torch.autocast(torch.device(self.card.device).type, dtype=torch.bfloat16, enabled=self.amp):
            return self.loss(self.forward(self.views))

    def __call__(self) -> None:
        """Make a step, and wait for it."""
        cudnn = torch.backends.cudnn
        with cudnn.flags(enabled=True, benchmark=self.fastest, deterministic=not self.fastest, allow_tf32=True):
            self.optimizer.zero_grad(set_to_none=True)
            self.judged().backward()
            self.optimizer.step()
            self.network.update_teacher(0.996)
            self.card.wait()


def mixed_precision(card: Card) -> Found:
    """Compare the losses of one network, on the same views, in bfloat16 and in float32."""
    step = Step(card)
    with torch.no_grad():
        exact = step.judged().item()
        step.loss.center.zero_()
        step.amp = True
        rough = step.judged().item()
    apart = abs(rough - exact) / abs(exact)
    said = f"{rough:.5f} in bfloat16, {exact:.5f} in float32: {apart:.3%} apart"
    return Found(apart <= WITHIN, said, {"float32": exact, "bfloat16": rough, "apart": apart})


def views(card: Card) -> Found:
    """Compare views without noise with those of the CPU, and those with noise with themselves."""
    recipe: dict[str, Any] = {"size": [24, 24, 12], "scale": [[0.8, 1.2], [0.8, 1.2], None]}
    recipe |= {"flip_probability": [0.5, 0.5, 0.5], "blur_sigma": [0.1, 2.0], "contrast": [0.75, 1.25]}
    recipe |= {"gamma": [0.7, 1.5]}
    image, size = torch.randn(4, 1, 40, 44, 16), torch.tensor([[40, 44, 16]] * 4)
    keys = (size, torch.arange(4), torch.ones(4, dtype=torch.long))
    plain = MultiViews([ViewRecipe(**recipe)] * 2, seed=1)
    noisy = MultiViews([ViewRecipe(**recipe, noise_sd=[0.1, 0.1])] * 2, seed=1)
    there = image.to(card.device)
    pairs = zip(plain(there, *keys), plain(image, *keys), strict=True)
    apart = max(float((on_gpu.cpu() - on_cpu).abs().max()) for on_gpu, on_cpu in pairs)
    again = all(torch.equal(a, b) for a, b in zip(noisy(there, *keys), noisy(there, *keys), strict=True))
    said = f"at most {apart:.1e} apart; with noise, {'the same' if again else 'NOT the same'} when made again"
    return Found(apart <= 1e-3 and again, said, {"apart": apart, "again": again})


def cudnn(card: Card) -> Found:
    """Time steps with cuDNN's repeatable kernels, which every training takes, and with its fastest."""
    contenders = {
        f"{precision}, {kernels}": Step(card, amp=amp, fastest=fastest)
        for precision, amp in (("float32", False), ("bfloat16", True))
        for kernels, fastest in (("repeatable", False), ("fastest", True))
    }
    seconds = time_in_turn(contenders, rounds=1 if card.quick else 10, warmups=1 if card.quick else 3)
    gains = {
        precision: spread(ratios(seconds[f"{precision}, repeatable"], seconds[f"{precision}, fastest"]))["median"]
        for precision in ("float32", "bfloat16")
    }
    said = "repeatable over fastest: " + ", ".join(f"{gain:.2f} x in {name}" for name, gain in gains.items())
    medians = {name: spread(values)["median"] for name, values in seconds.items()}
    return Found(card.quick or min(gains.values()) >= 1 / SLOWER, said, {"seconds a step": medians, "gains": gains})


def compiled(card: Card) -> Found:
    """Compile the network in one graph, and time steps in turn with the same network as it is."""
    plain, fast = Step(card, amp=True), Step(card, amp=True, compiled=True)
    with torch.no_grad():
        expected = plain.judged().item()
        plain.loss.center.zero_()
    began = time.perf_counter()
    found = fast.judged()
    found.backward()
    card.wait()
    waited = time.perf_counter() - began
    fast.loss.center.zero_()
    apart = abs(found.item() - expected) / abs(expected)
    seconds = time_in_turn({"plain": plain, "compiled": fast}, rounds=1 if card.quick else 10, warmups=1)
    gain = spread(ratios(seconds["plain"], seconds["compiled"]))["median"]
    said = f"plain over compiled: {gain:.2f} x in bfloat16, after {waited:.0f} s; losses {apart:.3%} apart"
    figures = {name: spread(values)["median"] for name, values in seconds.items()}
    held = apart <= WITHIN and (card.quick or gain >= 1 / SLOWER)
    return Found(held, said, {"seconds a step": figures, "gain": gain, "compiling": waited, "apart": apart})
