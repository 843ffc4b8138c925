"""Pairs of views per second and core: `desd_components.MultiViews` against MONAI's stock random transforms.

Both make the published pair of views (METHOD's recipe at 96 x 96 x 16 from contexts of 1.4 to 1.8 x 96) from the same
contexts, which lie in memory, on one thread. The reference is a `Compose` of stock array transforms per view and
sample, without metadata tracking, eager (as one lazy resampling it is slower), then stacked into a batch. Where stock
transforms draw otherwise (sigma per axis, a uniform shift of the same deviation), their cost is the same.

    python -m benchmarks.views [ROUNDS]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from monai import transforms
from monai.data import set_track_meta

from benchmarks.pairs import ratios, report, row, time_in_turn, verdict
from desd_components import MultiViews, ViewRecipe

BATCH = 16
SHARED: dict[str, Any] = {
    "size": (96, 96, 16),
    "scale": ((0.8, 1.2), (0.8, 1.2), None),
    "flip_probability": (0.8, 0.8, 0.8),
    "noise_sd": (0.0, 0.1),
    "blur_sigma": (0.1, 2.0),
    "multiplicative_brightness": (0.75, 1.25),
    "additive_brightness_sd": 0.4,
    "contrast": (0.75, 1.25),
    "gamma": (0.7, 1.5),
}
# Probabilities of blur, multiplicative brightness, additive brightness and gamma in view 1 and view 2.
PROBABILITIES = ((0.64, 0.8, 0.64, 0.8), (0.4, 1.0, 0.4, 1.0))


def our_views() -> MultiViews:
    """The two published recipes."""
    return MultiViews(
        [
            ViewRecipe(
                **SHARED,
                blur_probability=blur,
                multiplicative_brightness_probability=factor,
                additive_brightness_probability=shift,
                gamma_probability=gamma,
            )
            for blur, factor, shift, gamma in PROBABILITIES
        ],
        seed=0,
    )


def stock_view(blur: float, factor: float, shift: float, gamma: float) -> transforms.Compose:
    """One view as a pipeline of MONAI's stock transforms."""
    return transforms.Compose(
        [
            transforms.RandSpatialCrop((77, 77, 16), max_roi_size=(115, 115, 16), random_size=True),
            transforms.Resize((96, 96, 16), mode="trilinear"),
            *(transforms.RandFlip(prob=0.8, spatial_axis=axis) for axis in range(3)),
            transforms.RandGaussianNoise(prob=1.0, std=0.1, sample_std=True),
            transforms.RandGaussianSmooth((0.1, 2.0), (0.1, 2.0), (0.1, 2.0), prob=blur),
            transforms.RandScaleIntensity(factors=0.25, prob=factor),
            transforms.RandShiftIntensity(offsets=0.4 * 3**0.5, prob=shift),
            transforms.RandScaleIntensityFixedMean(factors=0.25, preserve_range=True, prob=1.0),
            transforms.RandAdjustContrast(gamma=(0.7, 1.5), retain_stats=True, prob=gamma),
        ]
    )


def contexts() -> dict[str, torch.Tensor]:
    """A batch as `collate_contexts` makes it: CT-like intensities, sizes drawn as the recipe draws them."""
    rng = np.random.default_rng(0)
    in_plane = np.rint(96 * rng.uniform(1.4, 1.8, size=(BATCH, 2))).astype(int)
    size = torch.tensor([(x, y, 24) for x, y in in_plane])
    image = torch.zeros(BATCH, 1, *size.amax(dim=0).tolist())
    for volume, (x, y, z) in zip(image, size, strict=True):
        volume[:, :x, :y, :z] = torch.tensor(rng.normal(0.0, 0.3, size=(1, x, y, z))).clamp(-1, 1)
    return {"image": image, "context_size": size, "index": torch.arange(BATCH)}


def main(rounds: int = 15) -> None:
    torch.set_num_threads(1)
    set_track_meta(False)
    batch, ours, stock = contexts(), our_views(), [stock_view(*view) for view in PROBABILITIES]
    crops = [volume[:, :x, :y, :z] for volume, (x, y, z) in zip(batch["image"], batch["context_size"], strict=True)]
    epochs = iter(range(10**6))

    def make_ours() -> list[torch.Tensor]:
        return ours(**batch, epoch=torch.full((BATCH,), next(epochs)))

    def make_stock() -> list[torch.Tensor]:
        return [torch.stack([view(crop) for crop in crops]) for view in stock]

    for made in (make_ours(), make_stock()):
        assert [tuple(view.shape) for view in made] == [(BATCH, 1, 96, 96, 16)] * 2

    seconds = time_in_turn({"ours": make_ours, "stock": make_stock}, rounds)
    pairs_per_second = {name: [BATCH / value for value in values] for name, values in seconds.items()}
    faster = ratios(seconds["stock"], seconds["ours"])
    report(
        "views",
        [
            row("pairs of views per second and core, MultiViews", pairs_per_second["ours"]),
            row("pairs of views per second and core, stock MONAI", pairs_per_second["stock"]),
            verdict("MultiViews over stock MONAI", faster, at_least=1.2),
        ],
        {"pairs_per_second": pairs_per_second, "ratio": faster, "required_ratio": 1.2, "batch": BATCH},
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
