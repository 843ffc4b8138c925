"""Solids on a grid: placed to a tenth of a voxel, partial volume at the border, later solids on top."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from desd_tools.studies.phantom.phantom import make_case
from desd_tools.studies.phantom.solids import Solid, average, ellipsoid, paint, rotation, tube


def test_a_painted_ball_sits_at_its_place_with_its_volume():
    affine = make_case(1, 2, size=24).affine
    center = nib.affines.apply_affine(affine, [7.3, 8.6, 5.2])
    ball = ellipsoid(center, np.full(3, 9.0), np.eye(3))
    tissue = paint([Solid("ball", ball, center, 9.0, 0.0)], affine, (17, 17, 11), lambda p: p)
    coverage = average((tissue == 1).astype(np.float32))
    place = np.array([sum(coverage[v] * np.array(v)[a] for v in np.ndindex(17, 17, 11)) for a in range(3)])
    np.testing.assert_allclose(place / coverage.sum(), [7.3, 8.6, 5.2], atol=0.06)
    volume = coverage.sum() * abs(np.linalg.det(affine[:3, :3]))
    assert volume == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.03)


def test_a_voxel_holds_the_fraction_of_it_that_is_covered():
    slab = Solid("slab", lambda points: points[0] < 2.0, np.zeros(3), 99.0, 0.0)
    covered = average((paint([slab], np.eye(4), (4, 2, 2), lambda p: p) == 1).astype(np.float32))
    np.testing.assert_array_equal(covered[:, 0, 0], [1, 1, 0.5, 0])  # voxel 2 reaches from 1.5 to 2.5 mm


def test_a_later_solid_replaces_only_the_tissues_that_it_may():
    low = Solid("low", lambda points: points[2] < 1.0, np.zeros(3), 99.0, 0.0)
    ball = Solid("ball", lambda points: np.ones(points.shape[1], bool), np.zeros(3), 99.0, 0.0, within=("low",))
    tissue = paint([low, ball], np.eye(4), (2, 2, 3), lambda p: p)
    assert set(np.unique(tissue)) == {0, 2}
    assert (tissue[:, :, :3] == 2).all() and (tissue[:, :, 3:] == 0).all()


def test_a_turned_ellipsoid_is_the_set_of_turned_points():
    turn, radii, center = rotation(np.array([0.3, -0.5, 1.1])), np.array([3.0, 2.0, 1.0]), np.array([1.0, -2.0, 0.5])
    points = np.random.default_rng(0).uniform(-4, 4, (3, 500)).astype(np.float32)
    inside = ellipsoid(center, radii, turn)(points)
    for point, found in zip(points.T, inside, strict=True):
        local = turn.T @ (point - center)
        assert found == (sum((local[a] / radii[a]) ** 2 for a in range(3)) < 1)


def test_a_tube_holds_the_points_near_its_line():
    inside = tube(np.zeros(3), np.array([4.0, 0, 0]), 1.0)
    points = np.array([[2, 0.9, 0], [2, 1.1, 0], [-0.9, 0, 0], [-1.1, 0, 0], [4.5, 0.5, 0.5], [4.9, 0.5, 0]]).T
    assert inside(points.astype(np.float32)).tolist() == [True, False, True, False, True, False]
