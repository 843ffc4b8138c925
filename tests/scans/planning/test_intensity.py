"""Hounsfield units or z-scores: what the data say, held against their voxels; MR and exports are never taken for CT."""

import numpy as np
import pytest

from desd_components.scans.planning.intensity import chosen_intensity, is_ct
from desd_components.scans.planning.survey import Survey, Surveyed, values_of


def ct(crop: bool = False) -> np.ndarray:
    """A body of soft tissue and fat in air; a crop of it shows tissue alone."""
    rng = np.random.default_rng(0)
    volume = rng.normal(40, 15, (24, 24, 24))
    volume[:, :8] = rng.normal(-100, 10, (24, 8, 24))
    volume[:4] = rng.normal(-1000, 5, (4, 24, 24))
    return rng.normal(40, 15, (24, 24, 24)) if crop else volume


def mr(low: float = 0, high: float = 1000) -> np.ndarray:
    return np.random.default_rng(1).uniform(low, high, (24, 24, 24))


def survey_of(volume: np.ndarray, modality: str | None = None) -> Survey:
    return Survey([Surveyed("a.nii.gz", (24, 24, 24), (1.0, 1.0, 1.0), values_of(volume))], modality)


SEEN = {  # what the data say, what suits them, and a word of what a person is told
    "CT": (ct(), None, "hu", ""),
    "CT that says so": (ct(), "CT", "hu", ""),
    "a crop of CT that says so": (ct(crop=True), "CT", "hu", ""),
    "CT filled with -3024 outside": (np.where(ct() < -900, -3024, ct()), None, "hu", ""),
    "a crop of CT that says nothing": (ct(crop=True), None, "zscore", "--intensity hu"),
    "MR that says so, with values of CT": (ct(), "MRI", "zscore", ""),
    "MR from -60 to 1000": (mr(-60), None, "zscore", ""),
    "MR": (mr(), None, "zscore", ""),
    "CT stored as 0 to 255": (np.clip((ct() + 160) / 400 * 255, 0, 255), "CT", "zscore", "are no Hounsfield units"),
    "CT times a million": (ct() * 1e6, "CT", "zscore", "are no Hounsfield units"),
    "CT, normalised": ((ct() - ct().mean()) / ct().std(), "CT", "zscore", "are no Hounsfield units"),
    "PET": (np.random.default_rng(2).gamma(0.5, 4, (24, 24, 24)), None, "zscore", ""),
}


@pytest.mark.parametrize("name", SEEN)
def test_the_choice_and_what_is_said_of_it(name):
    volume, modality, kind, told = SEEN[name]
    found = chosen_intensity(survey_of(volume, modality))
    assert found.kind == kind and told in (found.remark or "")


@pytest.mark.parametrize(
    ("name", "expected"), [("CT", True), ("ct", True), ("CECT", True), ("Computed Tomography", True), ("MRI", False),
                           ("T1-CE", False), ("PECTORAL MR", False), ("PET", False)],
)  # fmt: skip
def test_names_of_ct(name, expected):
    assert is_ct(name) is expected
