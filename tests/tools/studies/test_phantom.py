"""The phantom family: reproducible, labelled everywhere, oblique, and not to be segmented by a threshold."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from desd_components.base.errors import UserError
from desd_tools.studies.phantom import phantom
from desd_tools.studies.phantom.solids import Solid, average, ellipsoid, paint, rotation, tube

LIVER, SPLEEN, KIDNEYS, LESION = 1, 2, 3, 4


@pytest.fixture(scope="module")
def cases() -> list[phantom.PhantomCase]:
    return [phantom.make_case(seed=5, index=i) for i in range(6)]


def test_a_case_depends_on_seed_and_index_only():
    first, again = phantom.make_case(7, 3, size=24), phantom.make_case(7, 3, size=24)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    np.testing.assert_array_equal(first.affine, again.affine)
    for other in (phantom.make_case(8, 3, size=24), phantom.make_case(7, 4, size=24)):
        assert other.image.shape != first.image.shape or not np.array_equal(other.image, first.image)


def test_every_volume_shows_every_class(cases):
    for case in cases:
        assert np.bincount(case.label.ravel(), minlength=5).min() >= 30
    for i in range(8):
        assert set(np.unique(phantom.make_case(0, i, size=phantom.SMALLEST_SIZE).label)) == {0, 1, 2, 3, 4}


def test_values_are_hounsfield_units_of_air_fat_and_bone(cases):
    for case in cases:
        assert case.image.dtype == np.int16
        assert np.percentile(case.image, 2) == pytest.approx(-1000, abs=30)
        assert 150 < case.image.max() < 800
        assert np.mean((case.image > -140) & (case.image < -60)) > 0.1  # fat


def test_no_pair_of_thresholds_segments_an_organ(cases):
    """Even the best window for the organ, found knowing the truth, keeps Dice below one half."""
    edges = np.arange(-150, 400, 10)
    everything = sum(np.histogram(case.image, edges)[0] for case in cases)
    for organ in (LIVER, SPLEEN, KIDNEYS, LESION):
        inside = sum(np.histogram(case.image[case.label == organ], edges)[0] for case in cases)
        size = sum(int((case.label == organ).sum()) for case in cases)
        dice = [
            2 * inside[low:high].sum() / (everything[low:high].sum() + size)
            for low in range(len(inside))
            for high in range(low + 1, len(inside) + 1)
        ]
        assert max(dice) < 0.5, phantom.CLASS_NAMES[organ]


def test_the_grid_is_oblique_and_its_spacing_differs_by_axis_and_case(cases):
    seen = set()
    for case in cases:
        directions = case.affine[:3, :3] / np.linalg.norm(case.affine[:3, :3], axis=0)
        assert np.abs(directions).max() < 0.9995, "no grid axis lies along a world axis"
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-6)
        x, y, z = np.linalg.norm(case.affine[:3, :3], axis=0)
        assert 1.5 <= x <= 2.5 and 1.5 <= y <= 2.5 and 3 <= z <= 5 and x != y
        seen.add((round(x, 3), "".join(nib.aff2axcodes(case.affine))))
    assert len({spacing for spacing, _ in seen}) == len(cases)
    assert len({codes for _, codes in seen}) > 1, "scans are stored in several orientations"


def test_organs_lie_where_the_affine_says_in_every_orientation(cases):
    for case in cases:
        liver, spleen, kidneys = (_center_in_mm(case, organ) for organ in (LIVER, SPLEEN, KIDNEYS))
        assert liver[0] > 5 and spleen[0] < -5, "liver on the patient's right, spleen on the left"
        assert kidneys[2] < spleen[2] and kidneys[1] < liver[1], "kidneys below the spleen and behind the liver"


def _center_in_mm(case: phantom.PhantomCase, organ: int) -> np.ndarray:
    return nib.affines.apply_affine(case.affine, np.argwhere(case.label == organ)).mean(0)


def test_a_lesion_is_darker_than_its_liver_and_large_enough_to_be_learnt(cases):
    for case in cases:
        volume = np.count_nonzero(case.label == LESION) * abs(np.linalg.det(case.affine[:3, :3]))
        assert volume > 5000, "mm^3"
        assert 50 <= case.tissue_hu["liver"] - case.tissue_hu["lesion"] <= 70


@pytest.mark.parametrize(("organ", "name"), [(SPLEEN, "spleen"), (LESION, "lesion")])
def test_the_truth_agrees_with_the_noiseless_values(cases, organ, name):
    for case in cases:
        core = binary_erosion(case.label == organ)
        values = case.noiseless[core]
        assert core.sum() > 10
        assert np.abs(values - case.tissue_hu[name]).max() < 70, "texture only, no other tissue"
        assert values.mean() == pytest.approx(case.tissue_hu[name], abs=12)


def test_borders_hold_mixtures_of_both_tissues(cases):
    """Partial volume: at the border of the body, noiseless values fill the gap between air and fat."""
    for case in cases:
        between = (case.noiseless > -900) & (case.noiseless < -250)
        assert between.mean() > 0.01


def test_a_family_is_a_decathlon_folder_with_disjoint_splits(tmp_path: Path):
    folder = phantom.write_family(tmp_path / "family", num_labelled=7, num_unlabelled=2, seed=1, size=24)
    dataset, splits = (json.loads((folder / f).read_text()) for f in ("dataset.json", "splits.json"))
    assert list(splits) == ["note", "train", "validation", "test"]
    names = splits["train"] + splits["validation"] + splits["test"]
    assert len(names) == len(set(names)) == dataset["numTraining"] == 7
    for name, record in zip(names, dataset["training"], strict=True):
        image, label = nib.load(folder / record["image"]), nib.load(folder / record["label"])
        assert Path(record["image"]).name == f"{name}.nii.gz"
        assert image.shape == label.shape and image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(image.affine, label.affine)
    assert [nib.load(folder / image).ndim for image in dataset["test"]] == [3, 3]
    assert dataset["labels"]["4"] == "lesion"


def test_the_same_settings_write_the_same_bytes(tmp_path: Path):
    one, two = (phantom.write_family(tmp_path / n, 4, 1, seed=2, size=24) for n in ("one", "two"))
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert len(files) == 4 + 4 + 1 + 3
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)


def test_a_folder_with_other_data_is_refused(tmp_path: Path):
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match="not empty and no phantom family"):
        phantom.write_family(tmp_path, 4, 0, size=24)


def test_a_size_too_small_for_the_organs_is_refused():
    with pytest.raises(UserError, match="--size 24 or more"):
        phantom.make_case(0, 0, size=8)


# its solids


def test_a_painted_ball_sits_at_its_place_with_its_volume():
    affine = phantom.make_case(1, 2, size=24).affine
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
