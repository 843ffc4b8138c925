import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from desd_components import MultiViews, PrepareViews, UserError, ViewRecipe
from desd_components.distillation.views.make import ViewGeometry, make_view
from desd_components.distillation.views.recipe import INTENSITY_DRAWS

PUBLISHED = {
    "size": [96, 96, 16],
    "scale": [[0.8, 1.2], [0.8, 1.2], None],
    "flip_probability": [0.8, 0.8, 0.8],
    "noise_sd": [0.0, 0.1],
    "noise_probability": 1.0,
    "blur_sigma": [0.1, 2.0],
    "blur_probability": 0.64,
    "multiplicative_brightness": [0.75, 1.25],
    "multiplicative_brightness_probability": 0.8,
    "additive_brightness_sd": 0.4,
    "additive_brightness_probability": 0.64,
    "contrast": [0.75, 1.25],
    "contrast_probability": 1.0,
    "gamma": [0.7, 1.5],
    "gamma_probability": 0.8,
}
SMALL = PUBLISHED | {"size": [12, 10, 6]}
GEOMETRY_ONLY = {"size": [12, 10, 6], "scale": [[0.8, 1.2], [0.8, 1.2], None], "flip_probability": [0.5, 0.5, 0.5]}
ISOTROPIC = GEOMETRY_ONLY | {"scale": [[0.7, 1.3], [0.7, 1.3], [0.7, 1.3]]}


def two_views(recipe: dict, **settings) -> MultiViews:
    return MultiViews([ViewRecipe(**recipe), ViewRecipe(**recipe)], **({"seed": 5} | settings))


def contexts(samples: int = 5, channels: int = 1) -> dict[str, torch.Tensor]:
    """Random contexts of unequal sizes, zero-padded to (20, 18, 9)."""
    rng = np.random.default_rng(0)
    size = torch.tensor(rng.integers([14, 12, 7], [21, 19, 10], size=(samples, 3)))
    image = torch.zeros(samples, channels, 20, 18, 9)
    for volume, (x, y, z) in zip(image, size, strict=True):
        volume[:, :x, :y, :z] = torch.tensor(rng.normal(size=(channels, x, y, z)))
    return {"image": image, "context_size": size, "index": torch.arange(samples), "epoch": torch.full((samples,), 2)}


def keys(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values for name, values in batch.items() if name != "image"}


def resized_and_flipped(box: np.ndarray, size: tuple[int, ...], flip: np.ndarray) -> np.ndarray:
    """Linear resizing with ``align_corners=False``, one line of voxels at a time, then the flips."""
    for axis, voxels in enumerate(size):
        centers = (np.arange(voxels) + 0.5) * box.shape[axis] / voxels - 0.5
        box = np.apply_along_axis(lambda line, at=centers: np.interp(at, np.arange(len(line)), line), axis, box)
    return np.flip(box, np.flatnonzero(flip))


# Geometry


@pytest.mark.parametrize("chunk_size", [1, 3])
@pytest.mark.parametrize("recipe", [GEOMETRY_ONLY, ISOTROPIC])
def test_a_view_is_its_box_cut_out_resized_and_flipped(recipe, chunk_size):
    batch, views = contexts(), two_views(recipe, chunk_size=chunk_size)
    for made, geometry in zip(views(**batch), views.geometry(**keys(batch)), strict=True):
        for b, volume in enumerate(batch["image"][:, 0].numpy()):
            start, stop = geometry.start[b], geometry.start[b] + geometry.extent[b]
            box = volume[tuple(slice(*ends) for ends in zip(start, stop, strict=True))]
            expected = resized_and_flipped(box, (12, 10, 6), geometry.flip[b].numpy())
            np.testing.assert_allclose(made[b, 0], expected, atol=1e-5)


def test_positions_are_the_context_coordinates_that_a_view_shows():
    batch = contexts()
    batch["image"] = torch.stack(torch.meshgrid(*map(torch.arange, (20, 18, 9)), indexing="ij")).repeat(5, 1, 1, 1, 1)
    views = two_views(ISOTROPIC)
    for made, geometry in zip(views(**batch), views.geometry(**keys(batch)), strict=True):
        for axis, positions in enumerate(geometry.positions()):
            shown = made[:, axis].movedim(1 + axis, 1)[:, :, 0, 0].double()
            ends = geometry.start[:, axis, None], (geometry.start + geometry.extent)[:, axis, None] - 1
            torch.testing.assert_close(shown, positions.clamp(*ends), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("padding", "chunk_size"), [(float("nan"), 1), (1e6, 5)])
def test_padding_never_enters_a_view(padding, chunk_size):
    batch, views = contexts(), two_views(ISOTROPIC, chunk_size=chunk_size)
    expected = views(**batch)
    for volume, (x, y, z) in zip(batch["image"], batch["context_size"], strict=True):
        volume[:, x:], volume[:, :, y:], volume[:, :, :, z:] = padding, padding, padding
    for made, clean in zip(views(**batch), expected, strict=True):
        assert torch.equal(made, clean)


def test_a_context_smaller_than_the_draw_is_used_whole():
    batch = contexts() | {"context_size": torch.tensor([[7, 5, 3]] * 5)}
    for geometry in two_views(GEOMETRY_ONLY).geometry(**keys(batch)):
        assert (geometry.start == 0).all() and (geometry.extent == torch.tensor([7, 5, 3])).all()


def drawn_boxes(recipe: dict, context_size: tuple[int, int, int], draws: int = 3000) -> ViewGeometry:
    return two_views(recipe).geometry(
        torch.tensor([context_size] * draws), torch.arange(draws), torch.zeros(draws, dtype=torch.int64)
    )[0]


def test_extents_fill_the_scale_range_and_axes_are_drawn_alone():
    extent = drawn_boxes(PUBLISHED, (160, 160, 24)).extent.double()
    assert extent.amin(dim=0).tolist() == [77, 77, 16] and extent.amax(dim=0).tolist() == [115, 115, 16]
    np.testing.assert_allclose(extent.mean(dim=0), [96, 96, 16], atol=1)
    assert abs(torch.corrcoef(extent[:, :2].T)[0, 1].item()) < 0.08


def test_boxes_reach_both_ends_of_the_context_and_never_leave_it():
    geometry = drawn_boxes(PUBLISHED, (120, 130, 24))
    stop = geometry.start + geometry.extent
    assert geometry.start.amin(dim=0).tolist() == [0, 0, 0] and stop.amax(dim=0).tolist() == [120, 130, 24]
    assert torch.bincount(geometry.start[:, 2]).tolist() == pytest.approx([3000 / 9] * 9, rel=0.25)


def test_flips_happen_as_often_as_asked():
    recipe = PUBLISHED | {"flip_probability": [0.8, 0.5, 0.1]}
    np.testing.assert_allclose(
        drawn_boxes(recipe, (160, 160, 24)).flip.double().mean(dim=0), [0.8, 0.5, 0.1], atol=0.04
    )


# Intensities


def drawn_intensities(draws: int = 3000, **changes) -> np.ndarray:
    recipe = ViewRecipe(**(PUBLISHED | changes))
    rngs = (np.random.default_rng(number) for number in range(draws))
    return np.array([recipe.draw_intensity(rng) for rng in rngs], dtype=INTENSITY_DRAWS)


@pytest.mark.parametrize(
    ("step", "neutral", "limits", "probability"),
    [
        ("noise_sd", 0.0, (0.0, 0.1), 1.0),
        ("blur_sigma", 0.0, (0.1, 2.0), 0.64),
        ("brightness_factor", 1.0, (0.75, 1.25), 0.8),
        ("contrast", 1.0, (0.75, 1.25), 1.0),
        ("gamma", 1.0, (0.7, 1.5), 0.8),
    ],
)
def test_a_step_is_applied_as_often_as_asked_and_fills_its_range(step, neutral, limits, probability):
    drawn = drawn_intensities()[step]
    applied = drawn[drawn != neutral]
    assert len(applied) / len(drawn) == pytest.approx(probability, abs=0.04)
    assert limits[0] <= applied.min() and applied.max() <= limits[1]
    np.testing.assert_allclose(np.quantile(applied, [0.0, 0.5, 1.0]), np.quantile(limits, [0.0, 0.5, 1.0]), atol=0.06)


def test_additive_brightness_is_normal_with_its_deviation_and_probability():
    shift = drawn_intensities()["brightness_shift"]
    applied = shift[shift != 0]
    assert len(applied) / len(shift) == pytest.approx(0.64, abs=0.04)
    assert applied.std() == pytest.approx(0.4, rel=0.06) and applied.mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("change", [{"blur_probability": 0.0}, {"gamma": None}, {"additive_brightness_sd": 0.0}])
def test_switching_a_step_off_leaves_the_draws_of_the_others_alone(change):
    before, after = drawn_intensities(50), drawn_intensities(50, **change)
    differing = [name for name in INTENSITY_DRAWS.names if (before[name] != after[name]).any()]
    assert len(differing) == 1


def test_steps_come_in_the_order_of_the_recipe():
    values = {"noise_sd": 0.3, "blur_sigma": 0.9, "brightness_factor": 0.8, "brightness_shift": 0.5, "contrast": 1.2}
    draws = np.zeros(1, dtype=INTENSITY_DRAWS)
    for name, value in (values | {"gamma": 1.4, "noise_seed": 11}).items():
        draws[name] = value
    image = contexts(1)["image"][..., :8]
    everything = torch.tensor([[20, 18, 8]])
    geometry = ViewGeometry(torch.zeros_like(everything), everything, torch.zeros(1, 3, dtype=torch.bool), (20, 18, 8))

    noise = torch.empty(1, 20, 18, 8).normal_(generator=torch.Generator().manual_seed(11))
    expected = image[0, 0].double().numpy() + 0.3 * noise[0].double().numpy()
    for axis, voxels in enumerate(expected.shape):
        weights = np.exp(-0.5 * ((np.arange(voxels)[:, None] - np.arange(voxels)) / 0.9) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        expected = np.moveaxis(np.tensordot(weights, expected, axes=(1, axis)), 0, axis)
    expected = expected * 0.8 + 0.5
    expected = np.clip((expected - expected.mean()) * 1.2 + expected.mean(), expected.min(), expected.max())
    curved = ((expected - expected.min()) / np.ptp(expected)) ** 1.4
    expected = (curved - curved.mean()) / curved.std() * expected.std() + expected.mean()
    np.testing.assert_allclose(make_view(image, geometry, draws)[0, 0], expected, atol=1e-5)


def test_channels_share_everything_but_the_noise():
    batch = contexts()
    batch["image"] = batch["image"].expand(-1, 2, -1, -1, -1)
    quiet, noisy = two_views(SMALL | {"noise_sd": None})(**batch)[0], two_views(SMALL)(**batch)[0]
    torch.testing.assert_close(quiet[:, 0], quiet[:, 1])
    assert (noisy[:, 0] != noisy[:, 1]).any()


# Reproducibility


def test_views_of_a_sample_depend_on_nothing_else_in_the_batch():
    batch, views = contexts(), two_views(SMALL)
    together = views(**batch)
    order = torch.tensor([3, 0, 4])
    reordered = views(**{name: values[order] for name, values in batch.items()})
    alone = views(**{name: values[2:3] for name, values in batch.items()})
    for whole, part, single in zip(together, reordered, alone, strict=True):
        assert torch.equal(whole[order], part) and torch.equal(whole[2:3], single)


def test_a_whole_batch_at_once_gives_the_views_of_one_sample_at_a_time():
    batch = contexts(channels=2)
    for one, all_at_once in zip(
        two_views(SMALL, chunk_size=1)(**batch), two_views(SMALL, chunk_size=5)(**batch), strict=True
    ):
        torch.testing.assert_close(one, all_at_once, atol=2e-5, rtol=0)


def test_padding_autocast_and_the_global_generators_change_nothing_and_these_do_not_move():
    batch, views = contexts(), two_views(SMALL)
    torch.manual_seed(0)
    first, state = views(**batch), torch.get_rng_state()
    assert torch.equal(state, torch.manual_seed(0).get_state())
    wider = batch | {"image": torch.nn.functional.pad(batch["image"], (0, 3, 0, 7, 0, 1))}
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(*pair) for pair in zip(first, views(**wider), strict=True))


@pytest.mark.parametrize("change", ["seed", "epoch", "index", "view"])
def test_each_part_of_the_key_changes_the_draws(change):
    batch = contexts(1)
    other = batch | {change: batch[change] + 1} if change in batch else batch
    made = two_views(SMALL)(**batch)[0]
    again = two_views(SMALL, seed=6 if change == "seed" else 5)(**other)[1 if change == "view" else 0]
    assert not torch.equal(made, again)


# Use


def test_prepare_views_returns_views_and_no_target():
    batch, views = contexts(), two_views(SMALL)
    made, target = PrepareViews(views)(batch, device="cpu", non_blocking=True)
    assert target is None
    assert all(torch.equal(*pair) for pair in zip(made, views(**batch), strict=True))


def test_prepare_views_names_what_the_batch_lacks():
    with pytest.raises(UserError, match=r"lacks \['context_size', 'epoch'\].*collate_contexts"):
        PrepareViews(two_views(SMALL))({"image": torch.zeros(1, 1, 9, 9, 9), "index": torch.zeros(1)})


@pytest.mark.parametrize("dtype", [torch.int16, torch.float16, torch.float64])
def test_views_are_float32_plain_tensors(dtype):
    batch = contexts()
    made = two_views(SMALL)(**(batch | {"image": MetaTensor(batch["image"].to(dtype))}))[0]
    assert type(made) is torch.Tensor and made.dtype == torch.float32 and made.shape == (5, 1, 12, 10, 6)


def test_local_views_follow_the_global_ones_at_their_own_size():
    recipes = [ViewRecipe(**SMALL), ViewRecipe(**SMALL), ViewRecipe(**(SMALL | {"size": [6, 5, 6]}))]
    views = MultiViews(recipes, seed=0)
    assert views.num_global_views == 2
    assert [tuple(view.shape[2:]) for view in views(**contexts())] == [(12, 10, 6), (12, 10, 6), (6, 5, 6)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [12, 10]}, r"size \[12, 10\] must have three entries"),
        ({"size": [12, 0, 6]}, r"size \[12, 0, 6\] must be whole numbers of voxels above 0"),
        ({"size": [12.0, 10, 6]}, "whole numbers"),
        ({"scale": [0.8, 1.2]}, "scale .* must have three entries"),
        ({"scale": [[1.2, 0.8], None, None]}, r"scale along x \[1.2, 0.8\] is empty"),
        ({"scale": [None, [0.0, 1.0], None]}, "scale along y .*give 0 < low <= high"),
        ({"flip_probability": [0.5, 0.5, 1.5]}, "flip_probability along z 1.5 must be a probability"),
        ({"noise_sd": [-0.1, 0.1]}, "noise_sd .*give 0 <= low <= high"),
        ({"noise_sd": 0.1}, "noise_sd 0.1 must be a range"),
        ({"noise_sd": ["1e-4", 0.1]}, "noise_sd .* of numbers"),
        ({"blur_sigma": [2.0, 0.1]}, "blur_sigma .* is empty"),
        ({"blur_probability": -0.1}, "blur_probability -0.1 must be a probability"),
        ({"multiplicative_brightness": [0.0, 1.0]}, "multiplicative_brightness .*give 0 < low"),
        ({"additive_brightness_sd": -0.4}, "additive_brightness_sd .*give 0 <= low"),
        ({"contrast": [0.75]}, r"contrast \[0.75\] must be a range"),
        ({"gamma": [0.7, float("inf")]}, "gamma .* finite"),
        ({"gamma": [float("nan"), 1.0]}, "gamma .* finite"),
        ({"gamma_probability": None}, "gamma_probability None must be a probability"),
    ],
)
def test_an_impossible_recipe_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        ViewRecipe(**(SMALL | change))


@pytest.mark.parametrize(
    ("sizes", "settings", "message"),
    [
        ([], {}, r"sizes \[\] hold 0 global view"),
        ([(8, 8, 4)], {}, "hold 1 global view"),
        ([(8, 8, 4), (4, 4, 4)], {}, "hold 1 global view.*at least two"),
        ([(8, 8, 4), (4, 4, 4), (8, 8, 4)], {}, r"mix global and local views: put all of size \(8, 8, 4\) first"),
        ([(8, 8, 4)] * 2, {"seed": -1}, "seed -1 must be 0 or above"),
        ([(8, 8, 4)] * 2, {"chunk_size": 0}, "chunk_size 0 must be 1 or above"),
    ],
)
def test_an_impossible_set_of_views_is_refused(sizes, settings, message):
    with pytest.raises(UserError, match=message):
        MultiViews([ViewRecipe(size=size) for size in sizes], **({"seed": 0} | settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_size": torch.tensor([[20, 18, 10]] * 5)}, r"must lie between 1 and the image's \(20, 18, 9\)"),
        ({"context_size": torch.tensor([[0, 18, 9]] * 5)}, r"must lie between 1 and the image's \(20, 18, 9\)"),
        ({"image": contexts()["image"][0]}, r"wanted images \(B, C, X, Y, Z\) and sizes \(B, 3\)"),
    ],
    ids=["too large", "none", "no batch"],
)
def test_contexts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        two_views(SMALL)(**(contexts() | change))
