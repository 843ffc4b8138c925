"""Grid, window and strides: windows that show the organ within the budget, thick slices left alone, maps that last."""

import math

import numpy as np
import pytest

from desd_components.scans.planning.grid import alike, deepest, fitted_spacing, levels, own_spacing, window_size

# name: spacing in mm, what a window should show, and the volume's extent, in mm
SETS = {
    "heart in a crop": ([1.25, 1.25, 1.25], [100, 90, 55], [119, 89, 55]),
    "13 organs in CT": ([2.7, 2.7, 3.0], [345, 345, 234], [345, 345, 234]),
    "liver in thick slices": ([1.25, 1.25, 7.7], [260, 220, 250], [320, 320, 277]),
    "heart in thick slices": ([1.5, 1.5, 10.0], [150, 150, 90], [324, 384, 90]),
    "the thin axis first": ([8.0, 1.4, 1.4], [80, 150, 150], [80, 350, 350]),
    "hippocampus": ([1.0, 1.0, 1.0], [30, 50, 37], [36, 50, 36]),
    "whole-body CT": ([0.8, 0.8, 1.0], [400, 300, 900], [500, 500, 1800]),
    "a thin sheet": ([0.75, 0.4, 0.4], [1, 150, 50], [9, 290, 58]),
}
BUDGETS = [32**3, 130_000, 400_000]


def planned(name: str, voxels: float) -> tuple[np.ndarray, list[int]]:
    own, field, extent = (np.array(sizes, dtype=float) for sizes in SETS[name])
    spacing = fitted_spacing(own, np.minimum(field, extent), extent, voxels)
    return spacing, window_size(spacing, np.minimum(field, extent), extent, voxels)


@pytest.mark.parametrize("voxels", BUDGETS)
@pytest.mark.parametrize("name", SETS)
def test_a_window_shows_nearly_all_that_it_should_within_the_budget(name, voxels):
    spacing, window = planned(name, voxels)
    _, field, extent = (np.array(sizes, dtype=float) for sizes in SETS[name])
    assert (np.array(window) * spacing >= 0.75 * np.minimum(field, extent)).all()
    assert math.prod(window) <= 1.4 * voxels  # sides are rounded to whole strides


@pytest.mark.parametrize("name", SETS)
def test_more_room_never_makes_a_grid_coarser(name):
    few, some, many = (planned(name, voxels)[0] for voxels in BUDGETS)
    assert (few >= some).all() and (some >= many).all()
    assert (many >= np.array(SETS[name][0]) - 1e-9).all()  # nor finer than the scans


def test_thick_slices_stay_while_the_plane_is_made_coarser():
    spacing, window = planned("liver in thick slices", 130_000)
    assert spacing[0] == spacing[1] > 3 and spacing[2] == 7.7
    assert window[2] in (32, 40)


def test_thin_axes_are_halved_before_thick_ones():
    strides = levels([96, 96, 8], np.array([1.5, 1.5, 10.0])).strides
    assert strides == [[2, 2, 1], [1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]]


def test_the_stem_halves_wider_planes_only_where_slices_are_thick():
    thick, cubes = np.array([2.5, 2.5, 10.0]), np.ones(3)
    assert levels([72, 64, 10], thick).strides[0] == [1, 1, 1] and levels([64, 64, 40], cubes).strides[0] == [2, 2, 2]


def test_small_windows_keep_the_full_resolution_at_stage_1():
    strides = levels([32, 48, 32], np.ones(3)).strides
    assert strides == [[1, 1, 1], [1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]


def test_kernels_do_not_reach_across_thick_slices_until_the_plane_is_as_coarse():
    thick, cubes = levels([56, 56, 10], np.array([2.5, 2.5, 10.0])), levels([32, 48, 32], np.ones(3))
    assert thick.kernels == [[3, 3, 1]] * 3 + [[3, 3, 3]] * 2
    assert levels([10, 96, 96], np.array([10, 1.5, 1.5])).kernels[:3] == [[1, 3, 3], [1, 3, 3], [3, 3, 3]]
    assert cubes.kernels == [[3, 3, 3]] * 5 and cubes.cost(0.4) == thick.cost(1.0) == 1
    assert 0.45 < thick.cost(1 / 3) < 0.6 < thick.cost(0.6) < 0.8


@pytest.mark.parametrize("voxels", BUDGETS)
@pytest.mark.parametrize("name", SETS)
def test_no_slice_goes_unseen_and_the_deepest_map_keeps_two_voxels_of_every_axis(name, voxels):
    spacing, window = planned(name, voxels)
    assert min(deepest(window, levels(window, spacing).strides)) >= 2
    for strides, kernels in zip(*levels(window, spacing), strict=True):
        assert all(kernel >= stride for kernel, stride in zip(kernels, strides, strict=True))


def test_the_spacing_is_the_median_and_of_thick_slices_the_tenth_percentile():
    spacings = np.array([[1.0, 1.0, z] for z in range(5, 16)], dtype=float)
    assert own_spacing(spacings).tolist() == [1.0, 1.0, 6.0]
    assert own_spacing(np.array([[1.0, 1, 1], [1, 1, 2], [1, 1, 3]])).tolist() == [1, 1, 2]


def test_spacings_that_differ_by_rounding_are_alike():
    spacings = np.array([[1.0, 1, 2], [1.02, 1, 2.05]])
    assert alike(spacings, np.array([1.0, 1, 2])) and not alike(spacings, np.array([1.0, 1, 3]))
