"""Random draws that are a function of their key alone: (seed, epoch, sample, view), never of a running generator."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from monai import utils as monai_utils

# One seed feeds several draws; a stream each keeps them apart.
ORDER_STREAM, CONTEXT_STREAM, AUGMENTATION_STREAM, MIXING_STREAM, PARTNER_STREAM = 0x0D1, 0xC0D, 0xA06, 0x317, 0x9A1


class SampleKey(NamedTuple):
    """What a sample's draws are keyed by, beside the seed: the pass over the dataset, and the index.

    A pass is an epoch (from 1, as Ignite counts), unless epochs have a number of samples of their own.
    """

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a key


def key_of(key: SampleKey | int | Sequence[int]) -> SampleKey:
    """A key as datasets are given it; a plain index means epoch 0."""
    return SampleKey(int(key[0]), int(key[1])) if isinstance(key, Sequence) else SampleKey(0, int(key))


def keyed(*key: int) -> np.random.Generator:
    """A fresh generator that is a function of its key only: a seed, a stream, and what the draw is for."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def set_determinism(seed: int, cudnn_benchmark: bool = False) -> None:
    """MONAI's, which leaves cuDNN with kernels that repeat every bit; or cuDNN tries which ones are fastest.

    Args:
        seed: of torch, NumPy and Python.
        cudnn_benchmark: on a GPU faster, but two runs then differ by rounding.
    """
    monai_utils.set_determinism(seed=seed)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn_benchmark, not cudnn_benchmark


@contextmanager
def drawn_from(seed: int | None) -> Iterator[None]:
    """Draw weights from `seed`, whatever was drawn before, and leave torch's generator as it was; None just draws.

    MONAI's loader resets torch's generator, or not, by its number of processes.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield


def position_of(key: SampleKey | int, length: int) -> SampleKey:
    """Epoch and index of a sample; an index beyond the end stops whoever iterates."""
    epoch, index = key_of(key)
    if not -length <= index < length:
        raise IndexError(f"sample {index} of {length}")
    return SampleKey(epoch, index % length)
