"""Files appear whole or not at all; a disk that takes nothing is told in one line, whoever writes."""

import errno
import logging
import os
import threading
from pathlib import Path

import pytest
import torch

from desd_components.base import files as writing
from desd_components.base.errors import UserError
from desd_components.base.files import disk_fault, read_json, readable, save_tensors, write_atomically
from desd_components.runs import ending as plain
from desd_components.runs.ending import ended_plainly
from desd_components.runs.log import RunLog

WRITERS = {
    "bytes": lambda path, value: write_atomically(path, bytes([value])),
    "tensors": lambda path, value: save_tensors(path, {"weight": torch.full((99, 99), float(value))}),
}
has_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_the_old_file_and_one_line(write, tmp_path, monkeypatch):
    write(tmp_path / "file", 1)
    before = (tmp_path / "file").read_bytes()
    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(UserError) as refusal:
        write(tmp_path / "file", 2)
    assert str(refusal.value) == (
        f"{tmp_path}/file: cannot be written (No space left on device). Make room there and start the same command "
        "again; a training goes on from its last state."
    )
    assert (tmp_path / "file").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_the_errors_of_foreign_writers_become_a_line_too(number, capsys):
    def writes() -> int:
        try:
            raise OSError(number, os.strerror(number), "events.out")
        except OSError as error:
            raise RuntimeError("Failed to evaluate") from error

    assert ended_plainly(writes) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: events.out: cannot be written ({os.strerror(number)})") and said.count("\n") == 1
    assert ("Make room there" if number != errno.EROFS else "give another place") in said


def test_a_path_that_is_too_long_is_a_line_whoever_meets_it(tmp_path):
    with pytest.raises(OSError, match="too long") as met:
        (tmp_path / ("x" * 256)).stat()
    assert disk_fault(RuntimeError()) is None
    assert "cannot be a path (File name too long). Give a shorter one." in disk_fault(met.value)


def test_other_errors_are_no_fault_of_the_disk():
    assert disk_fault(FileNotFoundError(errno.ENOENT, "no such file", "scan.nii")) is None
    assert disk_fault(ValueError("No space left on device")) is None


@pytest.mark.parametrize(("error", "lines"), [(OSError(errno.ENOSPC, "full"), 0), (KeyError("bug"), 1)])
def test_a_thread_that_the_disk_stops_prints_no_trace(error, lines, capsys):
    plain._print_of_thread(threading.ExceptHookArgs((type(error), error, None, None)))
    assert bool(capsys.readouterr().err) == bool(lines)


@has_full_device
def test_a_log_on_a_full_disk_says_so_once_and_lets_the_run_go_on(capsys):
    log = RunLog("/dev/full")
    for _ in range(3):
        log.handle(logging.LogRecord("run", logging.INFO, "", 0, "a line", (), None))
    assert (
        capsys.readouterr().err == "/dev/full: cannot be written (No space left on device); lines are missing there.\n"
    )


def test_a_json_that_says_one_thing_twice_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"labels": {"1": "liver", "2": "spleen", "1": "kidney"}}')
    with pytest.raises(UserError, match=r"a.json: cannot be read as JSON \('1' stands twice in one object\): mend"):
        read_json(tmp_path / "a.json")


def test_sizes_are_told_in_the_unit_that_rounding_leaves():
    told = {0: "0 bytes", 999: "999 bytes", 1000: "1 kB", 999_499: "999 kB", 999_999: "1 MB", 2.5e12: "2.5 TB"}
    assert {size: readable(size) for size in told} == told
