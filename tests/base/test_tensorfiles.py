"""Weights files are read as tensors only; whatever else is in one is refused in a line, and nothing is executed."""

import json
import sys
import zipfile
from argparse import Namespace

import pytest
import torch
from payload import Payload
from random_weights import ARCHITECTURE, write_encoder

from desd_components import ResNet3DEncoder, UserError, encoder_from, load_encoder, load_weights
from desd_components.base.tensors import load_tensors
from desd_components.runs.state import read_state


@pytest.fixture
def checkpoint(tmp_path):
    write_encoder(tmp_path / "encoder.pt")
    return tmp_path / "encoder.pt"


def change_manifest(checkpoint, **changed):
    path = checkpoint.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def refused(path, words, read=load_encoder):
    with pytest.raises(UserError, match=words) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("read", [load_encoder, lambda path: load_tensors(path, [Namespace])])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "old pickle"])
def test_a_malicious_pickle_is_not_executed(checkpoint, tmp_path, read, new):
    content = {"stem.0.weight": Payload(tmp_path / "executed")}
    torch.save(content, checkpoint, _use_new_zipfile_serialization=new)
    refused(checkpoint, "not a readable file of tensors", read)
    assert not (tmp_path / "executed").exists()


ODD = {
    "sparse": (lambda weight: weight.to_sparse(), "no ordinary tensor"),
    "complex": (lambda weight: weight.to(torch.complex64), "no ordinary tensor"),
    "without values": (lambda weight: weight.to("meta"), "no ordinary tensor"),
    "whole numbers": (lambda weight: weight.to(torch.int64), "of another type"),
    "a number": (lambda weight: 1.0, "not a flat dict of tensors"),
    "a dict": (lambda weight: {"weight": weight}, "not a flat dict of tensors"),
    "another shape": (lambda weight: weight[:4].clone(), "another shape"),
    "a huge shape": (lambda weight: torch.ones(1).expand(10**6, 10**6), r"declares the shape \(1000000, 1000000\)"),
    "an infinite value": (lambda weight: weight.index_fill(0, torch.tensor(0), torch.inf), "holds NaN or infinite"),
    "one value for all": (lambda weight: torch.ones(1).expand_as(weight), "holds far fewer values"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_refused(checkpoint, kind):
    make, words = ODD[kind]
    tensors = torch.load(checkpoint, weights_only=True)
    tensors["stem.0.weight"] = make(tensors["stem.0.weight"])
    torch.save(tensors, checkpoint)
    refused(checkpoint, words)


def test_a_manifest_that_asks_for_more_than_the_file_holds_costs_nothing(checkpoint):
    change_manifest(checkpoint, architecture={**ARCHITECTURE, "width": 10**5})  # 10^12 parameters
    refused(checkpoint, "another shape")


@pytest.mark.parametrize("architecture", [{"depth": []}, {"width": "wide"}, {"width": -8}, {"colour": 3}, 7])
def test_a_manifest_of_odd_types_is_refused(checkpoint, architecture):
    change_manifest(checkpoint, architecture=architecture)
    words = r"encoder\.json: `architecture` describes no (ResNet3DEncoder|encoder)|^width=.*: give a whole number"
    with pytest.raises(UserError, match=words):
        load_encoder(checkpoint)


@pytest.mark.parametrize("name", ["../../outside", "/outside", "archive/../../outside"])
def test_a_zip_whose_entries_lead_out_of_it_is_refused(checkpoint, name):
    with zipfile.ZipFile(checkpoint, "a") as file:
        file.writestr(name, b"0")
    refused(checkpoint, "leads out of it")


def test_a_zip_that_grows_on_reading_is_refused(checkpoint):
    with zipfile.ZipFile(checkpoint, "a") as file:
        file.writestr("encoder/data/bomb", bytes(10**6), compress_type=zipfile.ZIP_DEFLATED)
    refused(checkpoint, "is compressed")


def test_weights_of_which_a_bit_has_flipped_are_refused(checkpoint):
    whole = checkpoint.read_bytes()
    with zipfile.ZipFile(checkpoint) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    place = largest.header_offset + 1000  # among the numbers of a kernel, behind the entry's own header
    for bit in (1, 64):
        checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        refused(checkpoint, r"is damaged \(.*data/\d+\): copy or download it again")


@pytest.mark.parametrize("read", [load_tensors, read_state])
def test_a_file_that_was_written_without_checksums_is_read(tmp_path, read):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(5)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    torch.testing.assert_close(read(tmp_path / "a.pt"), {"a": torch.arange(5)})


@pytest.mark.parametrize("content", [b"", b"\x80\x02text", b"PK\x03\x04broken"])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_broken_file_is_refused(checkpoint, content, ending):
    pytest.importorskip("safetensors")
    path = checkpoint.with_suffix(ending)
    path.write_bytes(content)
    refused(path, "not a readable file of tensors")


def test_safetensors_are_taken_as_a_pt_is(checkpoint):
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = torch.load(checkpoint, weights_only=True)
    path = checkpoint.with_suffix(".safetensors")
    safetensors.save_file(tensors, path)
    for encoder in (load_encoder(path), encoder_from(path), ResNet3DEncoder(**ARCHITECTURE)):
        load_weights(encoder, path)
        assert all(torch.equal(value, tensors[name]) for name, value in encoder.state_dict().items())


def test_without_the_package_safetensors_one_line_says_what_to_do(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path = checkpoint.rename(checkpoint.with_suffix(".safetensors"))
    with pytest.raises(UserError, match="pip install safetensors"):
        load_encoder(path)
