"""What no plan can mend is said before training, with names; and nothing of a folder that is as it should be."""

import pytest

from desd_components.scans.planning.oddities import oddities
from desd_components.scans.planning.survey import Survey, Surveyed, Values

CT = Values(-1024.0, 1500.0, (-1000.0, 20.0, 400.0), 0.6, 0.4)
SOFT = Values(-45.0, 90.0, (-40.0, 20.0, 80.0), 0.0, 0.0)  # a crop of soft tissue: Hounsfield units, or not
MR = Values(0.0, 900.0, (5.0, 200.0, 800.0), 0.0, 0.0)
THICK = (1.5, 1.5, 10.0)


def scans(count: int, name: str = "case", spacing=THICK, values: Values = MR, classes=(1, 2)) -> list[Surveyed]:
    boxes = {value: (9, 9, 9) for value in (0, *classes)}
    return [Surveyed(f"s/{name}_{n}.nii.gz", (64, 64, 9), spacing, values, boxes) for n in range(count)]


def said(*groups: list[Surveyed]) -> list[str]:
    return oddities(Survey([scan for group in groups for scan in group]))


@pytest.mark.parametrize(
    "groups",
    [
        [scans(8)],
        [scans(8, values=CT)],
        [],
        [scans(1)],
        [scans(8, values=CT), scans(1, values=SOFT)],  # a crop of soft tissue among CT
        [scans(8), scans(1, spacing=(0.7, 0.7, 8.0))],  # spacings vary so in a clinic
        [scans(8), scans(8, spacing=(1.5, 1.5, 1.0))],
    ],
)
def test_a_folder_of_one_kind_is_not_spoken_of(groups):
    assert said(*groups) == []


def test_mixed_modalities_are_named():
    (line,) = said(scans(8, values=CT), scans(2, "mr"))
    assert line.startswith("mixed modalities: 2 of 10 scans looked at are no CT in Hounsfield units, unlike 8 others:")
    assert "mr_0.nii.gz, mr_1.nii.gz." in line and "--intensity zscore" in line
    (line,) = said(scans(8), scans(1, "ct", values=CT))
    assert "1 of 9 scans looked at are CT, unlike 8 others: ct_0.nii.gz" in line


def test_a_foreign_spacing_is_named():
    (line,) = said(scans(8), scans(1, "cm", (15.0, 15.0, 100.0)))
    assert line.startswith("foreign spacing: 1 of 9 scans, the first of 15 x 15 x 100 mm where 1.5 x 1.5 x 10 mm are")
    assert "cm_0.nii.gz" in line
    assert said(scans(8), scans(1, spacing=(1.5, 1.5, 1.0)))


def test_a_class_of_a_single_case_is_named():
    (line,) = said(scans(8), scans(1, "rare", classes=(1, 7)))
    assert line.startswith("class 7 is labelled in one of 9 cases looked at, rare_0.nii.gz")
    assert said(scans(1)) == []
