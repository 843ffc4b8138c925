"""Classes as people and ``dataset.json`` write them: names, regions, and the label value that is ignored."""

import pytest

from desd_components import UserError, label_count, value_names
from desd_components.base.classes import Classes, classes_of, written_values

BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
KITS = {"background": 0, "kidney": [1, 2, 3], "mass": [2, 3], "tumour": [2]}
LIVER = "liver tumour"


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["liver", "tumour"], LIVER),
        (["Background", "liver", "tumour"], LIVER),
        (("liver", "tumour"), LIVER),
        ("liver, tumour", LIVER),
        ("['liver', 'tumour']", LIVER),  # as text, which shells and settings files make of a list
        ("('liver', 'tumour')", LIVER),
        ("'liver', 'tumour'", LIVER),
        ('{"0": "background", "1": "liver", "2": "tumour"}', LIVER),
        ({"0": "background", "1": "liver", "2": "tumour"}, LIVER),
        ({"background": 0, "liver": 1, "tumour": 2}, LIVER),
        (2, "class_1 class_2"),
        ({"0": "background", "3": "c", "1": "a"}, "a class_2 c"),  # a value without a name keeps its place
    ],
)
def test_class_names_are_taken_as_people_write_them(asked, names):
    assert [name.lower() for name in classes_of(asked).names] == ["background", *names.split()]


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "a": 1, "b": 2, "ignore": 3},
        {"0": "background", "1": "a", "2": "b", "3": "ignore"},
        {"background": 0, "a": "1", "b": 2.0, "Ignore": [3]},
        ["background", "a", "b", "ignore"],
        "a, b, ignore",
    ],
    ids=str,
)
def test_ignore_is_no_class_however_it_is_written(labels):
    assert classes_of(labels) == Classes(["background", "a", "b"], False, 3)


@pytest.mark.parametrize("value", [255, -1])
def test_the_value_to_ignore_may_be_any_but_that_of_a_class(value):
    assert classes_of({"a": 1, "ignore": value}) == Classes(["background", "a"], False, value)


def test_lists_of_label_values_are_regions():
    assert classes_of({**BRATS, "ignore": 4}) == Classes(list(BRATS), [[1, 2, 3], [2, 3], [3]], 4)


@pytest.mark.parametrize(
    ("labels", "order", "written"),
    [(BRATS, [1, 2, 3], [0, 1, 2, 3]), (KITS, [1, 3, 2], [0, 1, 3, 2]), (KITS, None, [0, 1, 3, 2])],
    ids=str,
)
def test_a_region_leaves_the_label_value_that_its_order_says(labels, order, written):
    classes = classes_of(labels, order=order)
    assert written_values(len(classes.names), classes.regions) == written


def test_of_two_values_that_a_region_may_leave_its_order_chooses():
    classes = classes_of({"whole": [1, 2, 3], "core": [2, 3]}, order=[1, 3])
    assert written_values(3, classes.regions) == [0, 1, 3]
    assert (label_count(classes.names, classes.regions), value_names(classes.names, classes.regions)) == (
        4,
        ["background", "whole", "class_2", "core"],
    )


NO_NAME = r"label value [12] has no name: give it one"


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        *((asked, None, "class_names") for asked in ([], ["background"], ["liver", "Liver"], 0, True, [1, 2])),
        *((asked, None, "class_names") for asked in ("[liver", "[1, 2]")),
        *((asked, None, NO_NAME) for asked in (["a", " "], "a,,b", {"0": "background", "1": None})),
        ({"background": 0, "": 1}, None, NO_NAME),
        ({"a": 1, "mean": 2}, None, "a class cannot be called 'mean'.* rename it, with `--class_names"),
        ({"a": 1, "ignore": 1}, None, "are not of the form"),
        ({"a": 1, "ignore": 2, "b": 3}, None, "`ignore` is 2, among the values of classes"),
        ({"a": 1, "ignore": [2, 3]}, None, r"`ignore` is \[2, 3\]: give it one label value"),
        ({"a": 1, "b": 1}, None, "are not of the form"),
        ({"a": 1.5}, None, "class_names.*are not of the form"),
        ({"a": -2}, None, "are not of the form"),
        ({"a": 1, "A": 2}, None, "must be distinct"),
        ({"background": 1, "a": 2}, None, "must be distinct"),
        (["a", {"b": 2}], None, "give a list"),
        ({"core": [2], "whole": [1, 2]}, None, r"all of \[2\] belongs to later regions"),
        (BRATS, [3, 2, 1], r"regions_class_order \[3, 2, 1\] does not fit"),
        (BRATS, [1, 2], r"regions_class_order \[1, 2\] does not fit"),
    ],
    ids=str,
)
def test_labels_that_cannot_be_are_refused_by_name(labels, order, words):
    with pytest.raises(UserError, match=words):
        classes_of(labels, order=order)


def test_a_name_of_the_background_is_said_not_to_be_a_class(caplog):
    assert classes_of({"liver": 0, "tumour": 1}).names == ["background", "tumour"]
    assert "label value 0 is the background here, and not a class called 'liver'" in caplog.text
