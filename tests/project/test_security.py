"""What comes from elsewhere is not trusted: nothing in it is executed, and nothing leads out of where it may lead."""

import json
import logging
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked_runs import run_forked
from monai.transforms import LoadImaged
from payload import Payload
from scan_files import write_json, write_pairs, write_scan

from desd_components import ScanDataset, ScanReader, UserError, find_labelled, find_scans

OUT = ["../outside.nii.gz", "sub/../../outside.nii.gz"]


@pytest.fixture
def folder(tmp_path):
    """A data folder, and a scan beside it that is none of its business."""
    write_pairs(tmp_path / "data", ["a", "b"])
    write_scan(tmp_path / "outside.nii.gz")
    return tmp_path / "data"


def listing(path: Path, image: str, label: str = "labelsTr/a.nii.gz") -> Path:
    return write_json(path, {"training": [{"image": image, "label": label}], "labels": {"0": "background", "1": "x"}})


@pytest.mark.parametrize("find", [find_scans, find_labelled])
@pytest.mark.parametrize("file", [*OUT, "ABSOLUTE"])
def test_the_list_of_a_folder_may_not_lead_out_of_it(folder, find, file):
    file = str(folder.parent / "outside.nii.gz") if file == "ABSOLUTE" else file
    listing(folder / "dataset.json", file)
    with pytest.raises(UserError, match=r"dataset\.json: '.*outside\.nii\.gz' leads out of its folder") as told:
        find(folder)
    assert "\n" not in str(told.value)
    listing(folder / "dataset.json", "imagesTr/a.nii.gz", file)
    with pytest.raises(UserError, match="leads out of"):
        find(folder)


@pytest.mark.parametrize("file", OUT)
def test_a_list_that_is_named_may_not_lead_out_by_dots(folder, file):
    with pytest.raises(UserError, match=r"leads out of .* Write an absolute path if you mean it"):
        find_scans(listing(folder / "list.json", file))


def test_a_list_that_is_named_may_name_files_elsewhere_by_absolute_paths(folder):
    outside = str(folder.parent / "outside.nii.gz")
    assert find_scans(listing(folder / "list.json", outside)) == [{"image": outside}]


def test_a_split_holds_names_and_no_paths(folder):
    split = write_json(folder / "split.json", {"train": ["../outside", str(folder.parent / "outside")]})
    with pytest.raises(UserError, match=r"none of its 2 case ids .* names a scan"):
        find_scans(folder, data_split=split)


def test_links_are_followed_and_those_that_lead_out_are_counted(folder, caplog):
    (folder / "imagesTr" / "linked.nii.gz").symlink_to(folder.parent / "outside.nii.gz")
    with caplog.at_level(logging.INFO):
        assert len(find_scans(folder)) == 3
    assert "1 of 3 files are links that lead out of it: linked.nii.gz" in caplog.text


def test_a_link_to_a_folder_above_itself_is_walked_once(folder):
    (folder / "imagesTr" / "again").symlink_to(folder)
    assert len(find_scans(folder)) == 2


@pytest.mark.parametrize("strict", [False, True])
def test_a_pickle_in_the_place_of_a_scan_is_never_read(tmp_path, strict):
    evil = tmp_path / "scan.npy"
    np.save(evil, np.array(Payload(tmp_path / "executed"), dtype=object), allow_pickle=True)
    dataset = ScanDataset([{"image": str(evil)}], LoadImaged("image", reader=ScanReader()), strict=strict)
    if strict:
        with pytest.raises(UserError, match=r"scan\.npy: is not a scan"):
            dataset[0]
    else:
        assert "scan.npy: is not a scan" in dataset[0]["error"]
    assert not (tmp_path / "executed").exists()


def refuse_connections(event: str, arguments: Any) -> None:
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        os._exit(77)


def without_network():
    sys.addaudithook(refuse_connections)


@pytest.mark.parametrize(("bundle", "weights"), [("desd_pretrain", "encoder.pt"), ("desd_seg_finetune", "model.pt")])
def test_training_and_inference_open_no_connection(tmp_path, bundle, weights):
    write_pairs(tmp_path / "data", ["a", "b", "c", "d"], shape=(16, 16, 16))
    train = {"dataset_dir": tmp_path / "data", "cache_dir": tmp_path / "cache", "max_epochs": 1}
    train |= {"warmup_steps": 0} if bundle == "desd_pretrain" else {"class_names": ["one", "two"]}
    infer = {"dataset_dir": tmp_path / "data" / "imagesTr", "checkpoint": tmp_path / "run" / weights}
    for configs, output, settings in (("train smoke", "run", train), ("inference", "out", infer)):
        assert run_forked(bundle, configs, tmp_path / output, prepare=without_network, **settings) == [0]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["failed"] == []


def test_a_connection_would_be_noticed():
    def connect():
        without_network()
        socket.create_connection(("127.0.0.1", 9))

    process = multiprocessing.get_context("fork").Process(target=connect)
    process.start()
    process.join(60)
    assert process.exitcode == 77
