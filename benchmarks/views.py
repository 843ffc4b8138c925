"""Pairs of views per second and core: `desd_components.MultiViews` against MONAI's stock random transforms.

Both make the published pair of views (96 x 96 x 16 from contexts of 1.4 to 1.8 x 96) from the same
contexts, which lie in memory, on one thread. The reference is a `Compose` of stock array transforms per view and
sample, without metadata tracking, eager (as one lazy resampling it is slower), then stacked into a batch. Where stock
transforms draw otherwise (sigma per axis, a uniform shift of the same deviation), their cost is the same. Seconds are
processor seconds.

    python -m benchmarks.views [ROUNDS]
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from monai import transforms
from monai.bundle import ConfigParser
from monai.data import set_track_meta

from benchmarks.pairs import ratios, report, row, time_in_turn, verdict
from desd_components import MultiViews, ViewRecipe

BATCH = 16
RECIPE = Path(__file__).parents[1] / "bundles" / "desd_pretrain" / "configs" / "train.yaml"


def our_views() -> MultiViews:
    """The two published recipes, as the bundle has them."""
    parser = ConfigParser()
    parser.read_config(RECIPE)
    return parser.get_parsed_content("prepare_views").multi_views


def stock_view(recipe: ViewRecipe) -> transforms.Compose:
    """The same recipe as a pipeline of MONAI's stock transforms."""
    smallest, largest = (
        [round(size * (scale[end] if scale else 1)) for size, scale in zip(recipe.size, recipe.scale, strict=True)]
        for end in (0, 1)
    )
    # Ranges as the published recipe has them: all steps present, factors symmetric around 1.
    noise, blur, factor, contrast, gamma = (
        (limits[0], limits[1])
        for limits in (
            recipe.noise_sd, recipe.blur_sigma, recipe.multiplicative_brightness, recipe.contrast, recipe.gamma
        )
        if limits
    )  # fmt: skip
    return transforms.Compose(
        [
            transforms.RandSpatialCrop(smallest, max_roi_size=largest, random_size=True),
            transforms.Resize(recipe.size, mode="trilinear"),
            *(transforms.RandFlip(p, spatial_axis=axis) for axis, p in enumerate(recipe.flip_probability)),
            transforms.RandGaussianNoise(recipe.noise_probability, std=noise[1], sample_std=True),
            transforms.RandGaussianSmooth(blur, blur, blur, prob=recipe.blur_probability),
            transforms.RandScaleIntensity(factor[1] - 1, prob=recipe.multiplicative_brightness_probability),
            transforms.RandShiftIntensity(
                recipe.additive_brightness_sd * 3**0.5, prob=recipe.additive_brightness_probability
            ),
            transforms.RandScaleIntensityFixedMean(recipe.contrast_probability, contrast[1] - 1, preserve_range=True),
            transforms.RandAdjustContrast(recipe.gamma_probability, gamma, retain_stats=True),
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
    batch, ours = contexts(), our_views()
    stock = [stock_view(recipe) for recipe in ours.views]
    crops = [volume[:, :x, :y, :z] for volume, (x, y, z) in zip(batch["image"], batch["context_size"], strict=True)]
    epochs = iter(range(10**6))

    def make_ours() -> list[torch.Tensor]:
        return ours(**batch, epoch=torch.full((BATCH,), next(epochs)))

    def make_stock() -> list[torch.Tensor]:
        return [torch.stack([view(crop) for crop in crops]) for view in stock]

    for made in (make_ours(), make_stock()):
        assert [tuple(view.shape) for view in made] == [(BATCH, 1, 96, 96, 16)] * 2

    seconds = time_in_turn({"ours": make_ours, "stock": make_stock}, rounds, clock=time.process_time)
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
