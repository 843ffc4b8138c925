import itertools
import logging
import time
from pathlib import Path

import pytest
from scan_files import write_json, write_label, write_pairs, write_scan

from desd_components import UserError, find_labelled, find_scans
from desd_components.scans.check import header_problem
from desd_components.scans.names import case_ids
from desd_tools.check.folder import look

CASES = [f"case_{number:02d}" for number in range(10)]


def ids(scans: list[dict]) -> list[str]:
    return [case_ids(scan)[0] for scan in scans]


@pytest.mark.parametrize("folders", [("imagesTr", "labelsTr"), ("images", "labels")])
def test_two_folders_give_pairs_of_equal_names(tmp_path, folders):
    write_pairs(tmp_path, CASES, *folders)
    data = find_labelled(tmp_path, ["a", "b"])
    for scan in data.training + data.validation:
        assert scan["image"].replace(folders[0], folders[1]) == scan["label"]
    assert sorted(ids(data.training + data.validation)) == CASES


def test_the_seeded_validation_split_is_disjoint_complete_and_repeatable(tmp_path):
    write_pairs(tmp_path, CASES)
    data = find_labelled(tmp_path, ["a", "b"], val_fraction=0.3, seed=4)
    assert len(data.validation) == 3 and len(data.training) == 7
    assert set(ids(data.training)) | set(ids(data.validation)) == set(CASES)
    assert find_labelled(tmp_path, ["a", "b"], val_fraction=0.3, seed=4) == data
    others = [ids(find_labelled(tmp_path, ["a", "b"], val_fraction=0.3, seed=seed).validation) for seed in range(8)]
    assert any(other != ids(data.validation) for other in others)


def test_labels_of_one_image_are_not_drawn_apart(tmp_path):
    write_pairs(tmp_path, CASES)
    raters = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{other}.nii.gz"} for name in CASES for other in
              (name, CASES[0])]  # fmt: skip
    data = find_labelled(write_json(tmp_path / "list.json", {"training": raters}), ["a", "b"], val_fraction=0.3)
    training, validation = ({scan["image"] for scan in part} for part in (data.training, data.validation))
    assert (len(training), len(validation)) == (7, 3) and not training & validation
    assert len(data.training) + len(data.validation) == 19  # one pair stands there twice


def test_partners_are_known_however_an_accent_is_written(tmp_path):
    write_scan(tmp_path / "images" / "caf\u00e9.nii.gz")
    write_label(tmp_path / "labels" / "cafe\u0301.nii.gz")
    assert len(find_labelled(tmp_path, ["a", "b"]).training) == 1


@pytest.mark.parametrize(("subjects", "apart"), [(("01", "02", "03"), True), (("01",), False)])
def test_sessions_of_one_patient_are_not_drawn_apart_unless_there_is_no_other(tmp_path, subjects, apart):
    names = [f"sub-{subject}_ses-{session}_T1w" for subject in subjects for session in "abcd"]
    write_pairs(tmp_path, names)
    data = find_labelled(tmp_path, ["a", "b"], val_fraction=0.3)
    drawn = [{Path(scan["image"]).name[:6] for scan in part} for part in (data.training, data.validation)]
    assert all(drawn) and drawn[0].isdisjoint(drawn[1]) == apart
    assert len(data.training) + len(data.validation) == len(names)


def test_label_subsets_of_one_seed_are_nested_and_those_of_others_differ(tmp_path):
    write_pairs(tmp_path, CASES)

    def drawn(count: int, seed: int = 2) -> set[str]:
        return set(ids(find_labelled(tmp_path, ["a", "b"], val_fraction=0, seed=seed, num_labels=count).training))

    subsets = [drawn(count) for count in range(1, 9)]
    assert [len(subset) for subset in subsets] == list(range(1, 9))
    assert all(small < large for small, large in itertools.pairwise(subsets))
    assert any(drawn(4, seed) != drawn(4) for seed in range(6))


def test_a_split_file_decides_who_trains_validates_and_tests(tmp_path):
    write_pairs(tmp_path, CASES)
    write_json(tmp_path / "splits.json", {"train": CASES[:3], "validation": CASES[3:5], "test": CASES[5:6]})
    data = find_labelled(tmp_path, ["a", "b"], data_split="splits.json")
    assert (ids(data.training), ids(data.validation), ids(data.test)) == (CASES[:3], CASES[3:5], CASES[5:6])


@pytest.mark.parametrize("channels", [1, 2])
def test_an_nnunet_folder_pairs_numbered_channels_with_the_label(tmp_path, channels):
    for name in ("a", "b"):
        for number in range(channels):
            write_scan(tmp_path / "imagesTr" / f"{name}_000{number}.nii.gz")
        write_label(tmp_path / "labelsTr" / f"{name}.nii.gz")
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "x": 1}, "channel_names": {"0": "t1"}})
    data = find_labelled(tmp_path, in_channels=channels, val_fraction=0)
    assert ids(data.training) == ["a", "b"]
    assert all(isinstance(scan["image"], list) is (channels == 2) for scan in data.training)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"file_ending": ".tif"}, "file_ending '.tif' is not read"),
        ({"overwrite_image_reader_writer": "Tiff3DIO"}, "overwrite_image_reader_writer 'Tiff3DIO' is not known"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, r"channel_names lists 2 channels \(T1, T2\), .*`--in_channels 2`"),
        ({"modality": {"0": "T1", "1": "T2"}}, "modality lists 2 channels"),
        ({"labels": {"a": 1, "mean": 2}}, "a class cannot be called 'mean'"),
    ],
    ids=str,
)
def test_what_a_dataset_json_asks_for_in_vain_is_refused_by_name(tmp_path, said, words):
    write_pairs(tmp_path, ["a", "b"])
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "x": 1, "y": 2}, **said})
    with pytest.raises(UserError, match=rf"dataset.json.*{words}"):
        find_labelled(tmp_path)


def test_the_data_say_what_is_ignored_whatever_the_classes_are_called(tmp_path):
    write_pairs(tmp_path, ["a", "b"])
    write_json(
        tmp_path / "dataset.json", {"labels": {"background": 0, "mean": 1, "ignore": 2}, "file_ending": ".nii.gz"}
    )
    data = find_labelled(tmp_path, ["liver"])
    assert (data.class_names, data.ignore) == (["background", "liver"], 2)
    assert find_labelled(tmp_path, ["liver", "tumour"]).ignore is None  # asked for as a class


def test_files_of_another_ending_do_not_belong_to_the_data(tmp_path, caplog):
    write_pairs(tmp_path, ["a", "b"])
    write_scan(tmp_path / "imagesTr" / "a.nii")
    write_json(tmp_path / "dataset.json", {"labels": {"x": 1, "y": 2}, "file_ending": ".nii.gz"})
    assert all(scan["image"].endswith(".nii.gz") for scan in find_labelled(tmp_path, val_fraction=0).training)
    assert "1 files that do not end in .nii.gz (file_ending) left out: a.nii" in caplog.text


@pytest.mark.parametrize("channels", [2, 3])
def test_numbered_files_that_hold_channels_are_cases_each(tmp_path, caplog, channels):
    for number in range(1, 4):
        write_scan(tmp_path / f"case_{number:04d}.nii.gz", (6, 7, 5, channels))
    with caplog.at_level(logging.INFO):
        scans = find_scans(tmp_path, in_channels=2)
    assert ids(scans) == ["case_0001", "case_0002", "case_0003"]
    assert "3 files are scans each; channels hold one, and are numbered from _0000 on: case_0001.nii.gz" in caplog.text
    assert ("set `--in_channels 3`" in str(header_problem(scans[0], 2))) is (channels == 3)


def test_of_a_case_that_lacks_a_channel_no_other_takes_its_place(tmp_path):
    for name in ("a_0000", "a_0001", "b_0001", "b_0002", "c_0000", "c_0002", "d", "d_0000", "scan_2019", "scan_2020"):
        write_scan(tmp_path / f"{name}.nii.gz")
    whole, *others = find_scans(tmp_path, in_channels=2)
    assert [Path(file).name for file in whole["image"]] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert len(others) == 8
    assert all("give its other channels, too (x_0000, x_0001, ..." in str(header_problem(scan, 2)) for scan in others)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_list_of_nnunets_first_version_finds_the_numbered_files(tmp_path, channels):
    for case, number in itertools.product("ab", range(channels)):
        write_scan(tmp_path / "imagesTr" / f"{case}_{number:04}.nii.gz", seed=number)
        write_label(tmp_path / "labelsTr" / f"{case}.nii.gz")
    cases = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in "ab"]
    write_json(tmp_path / "dataset.json", {"labels": {"0": "background", "1": "x", "2": "y"}, "training": cases})
    data = find_labelled(tmp_path, val_fraction=0, in_channels=channels)
    assert ids(data.training) == ["a", "b"]
    assert not any(header_problem(scan, channels) for scan in (*data.training, *find_scans(tmp_path, channels)))


@pytest.mark.parametrize("shape", [(6, 7, 5, 2), (6, 7, 5)])
def test_a_numbered_file_with_a_label_of_its_own_is_a_case(tmp_path, shape):
    for number in range(1, 4):
        write_scan(tmp_path / "imagesTr" / f"case_{number:04d}.nii.gz", shape)
        write_label(tmp_path / "labelsTr" / f"case_{number:04d}.nii.gz")
    data = find_labelled(tmp_path, ["x", "y"], in_channels=2, val_fraction=0)
    assert ids(data.training) == ["case_0001", "case_0002", "case_0003"]


def test_the_cases_that_an_nnunet_dataset_json_lists_are_taken(tmp_path):
    write_pairs(tmp_path, ["a", "b"], "here", "there")
    cases = {name: {"images": [f"here/{name}.nii.gz"], "label": f"there/{name}.nii.gz"} for name in "ab"}
    write_json(tmp_path / "dataset.json", {"labels": {"x": 1, "y": 2}, "dataset": cases})
    assert ids(find_labelled(tmp_path, val_fraction=0).training) == ["a", "b"]


def folds(*numbers: float | None) -> list[dict]:
    return [
        {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz", "fold": number}
        for name, number in zip("abcd", numbers, strict=False)
    ]


@pytest.mark.parametrize("kind", [int, float])
def test_of_an_auto3dseg_list_fold_0_validates_and_testing_tests(tmp_path, caplog, kind):
    write_pairs(tmp_path, list("abcd"))
    numbers = map(kind, (1, 0, 1))
    listed = {"labels": {"1": "x", "2": "y"}, "training": folds(*numbers), "testing": folds(0, 0, 0, 0)[3:]}
    with caplog.at_level(logging.INFO):
        data = find_labelled(write_json(tmp_path / "list.json", listed))
    assert [ids(part) for part in data.sections.values()] == [["a", "c"], ["b"], ["d"]]
    assert "its fold 0 is for validation" in caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"training": folds(0, 0, 0)}, False),
        ({"training": folds(1, 2, 3)}, True),
        ({"training": folds(0, 1), "validation": folds(0, 1, 2)[2:]}, True),
    ],
)
def test_other_folds_are_left_alone_and_told(tmp_path, caplog, content, told):
    write_pairs(tmp_path, list("abc"))
    path = write_json(tmp_path / "list.json", {"labels": {"1": "x", "2": "y"}, **content})
    assert len(find_labelled(path, val_fraction=0).training) == len(content["training"])
    assert ("the folds of its scans are not used" in caplog.text) is told


def test_other_keys_of_the_entries_of_a_list_are_told(tmp_path, caplog):
    write_pairs(tmp_path, list("ab"))
    entries = [folds(None)[0], {"image": "imagesTr/b.nii.gz", "mask": "labelsTr/b.nii.gz"}]
    with caplog.at_level(logging.INFO):
        data = find_labelled(write_json(tmp_path / "list.json", {"training": entries}), ["x", "y"])
    assert ids(data.training) == ["a"] and ids(data.unlabelled) == ["b"]
    assert "of its entries image and label are used, not ['mask']" in caplog.text


def test_a_scan_that_is_listed_again_counts_once_in_a_section_and_is_told(tmp_path, caplog):
    write_pairs(tmp_path, list("ab"))
    content = {"training": [*folds(0, 0), *folds(0)], "validation": folds(0, 0)[1:]}
    data = find_labelled(write_json(tmp_path / "list.json", content), ["x", "y"])
    assert [ids(part) for part in data.sections.values()] == [["a", "b"], ["b"], []]
    assert "2 scans are listed again; those of two sections judge themselves: a.nii.gz, b.nii.gz" in caplog.text


def test_a_label_that_is_listed_for_several_images_is_told(tmp_path, caplog):
    write_pairs(tmp_path, list("abc"))
    entries = folds(None, None, None)
    entries[1]["label"] = entries[0]["label"]
    data = find_labelled(write_json(tmp_path / "list.json", {"training": entries}), ["x", "y"], val_fraction=0)
    assert ids(data.training) == ["a", "a", "c"]
    assert "1 label files are listed for several images each: a.nii.gz" in caplog.text


def test_sections_may_be_called_valid_and_begin_with_a_capital(tmp_path, caplog):
    write_pairs(tmp_path, list("abc"))
    split = write_json(tmp_path / "s.json", {"Train": ["a"], "valid": ["b"], "Test": ["c"]})
    entries = folds(None, None, None)
    listed = {"Training": entries[:1], "valid": entries[1:2], "Test": entries[2:]}
    with caplog.at_level(logging.INFO):
        found = (
            find_labelled(tmp_path, ["x", "y"], data_split=split),
            find_labelled(write_json(tmp_path / "l.json", listed), ["x"]),
        )
    assert [[ids(part) for part in data.sections.values()] for data in found] == [[["a"], ["b"], ["c"]]] * 2
    assert "used" not in caplog.text and "fold" not in caplog.text


def test_of_nnunets_folds_the_first_is_taken_where_it_is_asked_for_and_else_told(tmp_path, caplog):
    write_pairs(tmp_path, list("abc"))
    write_json(tmp_path / "splits_final.json", [{"train": ["b", "c"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}])
    with caplog.at_level(logging.INFO):
        data = find_labelled(tmp_path, ["x", "y"], data_split="splits_final.json")
        assert (ids(data.training), ids(data.validation)) == (["b", "c"], ["a"])
        assert "the first of its 2 folds is taken" in caplog.text and "is not used" not in caplog.text
        find_labelled(tmp_path, ["x", "y"])
    assert "splits_final.json in it is not used: `--data_split splits_final.json` takes its first fold" in caplog.text


def test_a_section_may_be_a_mapping_from_case_names(tmp_path):
    write_pairs(tmp_path, list("ab"))
    content = {"training": dict(zip("xy", folds(0, 0), strict=True)), "validation": None}
    data = find_labelled(write_json(tmp_path / "dataset.json", content).parent, ["x", "y"], val_fraction=0)
    assert (ids(data.training), data.validation) == (["a", "b"], [])


@pytest.mark.parametrize(
    "odd",
    [{"validation": 0.2}, {"training": {"imagesTr/a.nii.gz": "labelsTr/a.nii.gz"}}, {"test": "imagesTs"}],
    ids=str,
)
def test_a_section_that_is_no_list_is_refused(tmp_path, odd):
    write_pairs(tmp_path, list("ab"))
    path = write_json(tmp_path / "list.json", {"training": folds(0, 0), **odd})
    for find in (find_scans, lambda path: find_labelled(path, ["x", "y"])):
        with pytest.raises(UserError, match=f"{next(iter(odd))} is .*, no list: give one, or take it out"):
            find(path)


def test_of_two_pairs_of_folders_the_second_is_told(tmp_path, caplog):
    write_pairs(tmp_path, ["a", "b"])
    write_pairs(tmp_path, ["c"], "images", "labels")
    assert ids(find_labelled(tmp_path, ["x", "y"], val_fraction=0).training) == ["a", "b"]
    assert "images and labels are not used, for imagesTr and labelsTr are there" in caplog.text


def test_time_grows_with_the_number_of_scans_and_not_with_its_square(tmp_path):
    listed = [{"image": f"{number}.nii.gz", "label": f"{number}_seg.nii.gz"} for number in range(20_000)]
    path = write_json(tmp_path / "list.json", {"training": listed})
    started = time.process_time()
    data = find_labelled(path, ["x"], num_labels=8_000)
    assert len(data.unlabelled) == 8_000 and time.process_time() - started < 5  # by the square: 25 s


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"val_fraction": 1.0}, "val_fraction is 1.0: give a share between 0 and 1"),
        ({"num_labels": 9}, r"num_labels is 9, but there are 8 .* give a number from 1 to 8"),
        ({"class_names": None}, r"nothing names the classes .*`--class_names"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_data_are_refused(tmp_path, settings, words):
    write_pairs(tmp_path, CASES)
    with pytest.raises(UserError, match=words):
        find_labelled(tmp_path, **{"class_names": ["a", "b"], **settings})


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("images", "labels"), "no image has a label"),
        (("scans", "masks"), r"neither dataset.json, nor imagesTr .* data list"),
    ],
)
def test_a_folder_without_any_pair_or_of_another_layout_is_refused(tmp_path, folders, words):
    write_scan(tmp_path / folders[0] / "a.nii.gz")
    write_label(tmp_path / folders[1] / "b.nii.gz")
    with pytest.raises(UserError, match=words):
        find_labelled(tmp_path, ["x"])


def test_lonely_images_and_labels_are_left_out_and_counted(tmp_path, caplog):
    write_pairs(tmp_path, ["a", "b"])
    for name in ("unlabelled", "a_0000"):  # the label of the latter has an image of its own name
        write_scan(tmp_path / "imagesTr" / f"{name}.nii.gz")
    write_label(tmp_path / "labelsTr" / "orphan.nii.gz")
    assert ids(find_labelled(tmp_path, ["x", "y"], val_fraction=0).training) == ["a", "b"]
    assert "2 images without a label left out: a_0000.nii.gz, unlabelled.nii.gz" in caplog.text
    assert "1 labels without an image left out: orphan.nii.gz" in caplog.text


def test_a_data_list_brings_its_own_sections_and_classes_and_others_are_told(tmp_path, caplog):
    write_pairs(tmp_path, list("abcd"))
    sections = dict(
        zip(("training", "validation", "test", "holdout"), ([entry] for entry in folds(0, 0, 0, 0)), strict=True)
    )
    labels = {"0": "background", "2": "Posterior", "1": "Anterior"}
    data = find_labelled(write_json(tmp_path / "list.json", {"labels": labels, **sections}))
    assert data.class_names == ["background", "Anterior", "Posterior"]
    assert [ids(part) for part in data.sections.values()] == [["a"], ["b"], ["c"]]
    assert "the scans under ['holdout'] are not used" in caplog.text


def test_one_labelled_scan_is_trained_and_validated_on_with_a_warning(tmp_path, caplog):
    write_pairs(tmp_path, ["only"])
    data = find_labelled(tmp_path, ["x", "y"])
    assert data.training == data.validation and len(data.training) == 1
    assert "only one labelled scan" in caplog.text


@pytest.mark.parametrize("twin", ["imagesTr/b.nii", "labelsTr/b.nii", "imagesTr/b.nrrd"])
def test_of_two_files_of_one_name_none_is_taken_in_silence(tmp_path, twin):
    write_pairs(tmp_path, ["a", "b", "c"])
    (tmp_path / twin).write_bytes((tmp_path / twin).parent.joinpath("b.nii.gz").read_bytes())
    first, second = sorted([twin[9:], "b.nii.gz"])
    with pytest.raises(
        UserError, match=rf"{second}: has the name of {first} beside it: keep one of the two"
    ) as refusal:
        find_labelled(tmp_path, ["one", "two"])
    assert "\n" not in str(refusal.value)
    found = look(tmp_path).findings
    assert ("name", "keep one of the two, or rename one") in [(finding.kind, finding.remedy) for finding in found]


def test_two_files_that_may_be_one_channel_are_refused(tmp_path):
    for name in ("p_0000.nii.gz", "p_0000.nii"):
        write_scan(tmp_path / name)
    assert len(find_scans(tmp_path)) == 2
    with pytest.raises(UserError, match=r"p_0000.nii.gz: has the name of p_0000.nii beside it"):
        find_scans(tmp_path, in_channels=2)
    split = write_json(tmp_path / "split.json", {"train": ["p_0000"]})
    with pytest.raises(UserError, match=r"fits 2 scans .*: keep one of them, or rename one"):
        find_scans(tmp_path, data_split=split)


def test_pairs_below_folders_of_sections_belong_to_these(tmp_path):
    for section in ("train", "val", "test"):
        write_pairs(tmp_path, [f"{section}_{n}" for n in "ab"], f"images/{section}", f"labels/{section}")
    found = find_labelled(tmp_path, ["x", "y"])
    wanted = {
        name: [f"{part}_a", f"{part}_b"] for name, part in (("train", "train"), ("validation", "val"), ("test", "test"))
    }
    assert {name: ids(part) for name, part in found.sections.items()} == wanted
