"""A task of the Decathlon is fetched whole or not at all; a server on this machine plays the network."""

import errno
import functools
import hashlib
import io
import json
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pytest
from monai.apps import DecathlonDataset, utils

from desd_components.base.errors import UserError
from desd_tools.__main__ import main
from desd_tools.data.download import download, task_name

TASK = "Task04_Hippocampus"
DATASET = json.dumps({"labels": {"0": "background", "1": "front"}, "training": [], "test": []})
FILES = {f"{TASK}/dataset.json": DATASET, f"{TASK}/imagesTr/hippocampus_001.nii.gz": "a volume"}


def archive_of(path, files=FILES, *more):
    """A tar of `files`, name -> text, and of further members."""
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        for member in more:
            archive.addfile(member)
    return path


def link(name, target, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """serve(path): MONAI's table names that file, on a server of this machine, with its checksum."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(DecathlonDataset.resource, TASK, f"http://127.0.0.1:{server.server_port}/{TASK}.tar")

    def serve(*content):
        path = archive_of(folder / f"{TASK}.tar", *content)
        monkeypatch.setitem(DecathlonDataset.md5, TASK, hashlib.md5(path.read_bytes()).hexdigest())
        return path

    yield serve
    server.shutdown()
    server.server_close()


def test_a_task_arrives_with_every_file_a_progress_bar_and_its_licence_said(served, tmp_path, caplog, capsys):
    served()
    with caplog.at_level("INFO"):
        assert main(["download", TASK, "--dir", str(tmp_path / "data")]) == 0
    folder = tmp_path / "data" / TASK
    found = {str(path.relative_to(folder.parent)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES
    assert "CC-BY-SA 4.0" in caplog.text
    bar = capsys.readouterr().err
    assert f"{TASK}.tar: " in bar and "B/s]" in bar
    assert list(folder.parent.iterdir()) == [folder], "no archive and no temporary folder is left"


def test_a_folder_that_is_there_is_not_fetched_again(served, tmp_path):
    served()
    folder = download(TASK, str(tmp_path))
    (folder / "mine.txt").write_text("kept")
    assert download(TASK, str(tmp_path)) == folder and (folder / "mine.txt").exists()


def test_half_a_folder_is_not_taken_for_a_whole_one(served, tmp_path):
    served()
    (tmp_path / TASK / "imagesTr").mkdir(parents=True)
    with pytest.raises(UserError, match="no complete Task04_Hippocampus"):
        download(TASK, str(tmp_path))


def test_an_archive_that_lies_there_is_used_and_kept_on_request(served, tmp_path):
    path = served()
    (tmp_path / "data").mkdir()
    path.rename(tmp_path / "data" / path.name)  # the server has nothing any more
    assert (download(TASK, str(tmp_path / "data"), keep_archive=True) / "dataset.json").is_file()
    assert (tmp_path / "data" / path.name).is_file()


ODD = {
    "a name that leads out": ({**FILES, "../outside.txt": "x"},),
    "a name that leads out from inside": ({**FILES, f"{TASK}/../../outside.txt": "x"},),
    "an absolute name": ({**FILES, "/outside.txt": "x"},),
    "a symbolic link": (FILES, link(f"{TASK}/to", "../..", tarfile.SYMTYPE)),
    "a hard link": (FILES, link(f"{TASK}/to", f"{TASK}/dataset.json", tarfile.LNKTYPE)),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_an_archive_with_an_odd_member_is_refused_and_nothing_of_it_is_kept(content, served, tmp_path):
    served(*content)
    data = tmp_path / "data"
    with pytest.raises(UserError, match=r"the archive is refused"):
        download(TASK, str(data))
    assert [path.name for path in data.iterdir()] == [f"{TASK}.tar"]
    assert not (tmp_path / "outside.txt").exists()


def test_an_archive_of_something_else_is_refused(served, tmp_path):
    served({"elsewhere/dataset.json": DATASET})
    with pytest.raises(UserError, match=r"holds no Task04_Hippocampus/dataset\.json"):
        download(TASK, str(tmp_path / "data"))


def fails(arguments, capsys):
    """The one line that a refused command prints, beside its progress bar."""
    assert main(["download", *arguments]) == 2
    shown = capsys.readouterr()
    [line] = [line for line in shown.err.splitlines() if "error" in line.lower()]
    assert shown.out == "" and line.startswith("error: ")
    return line


def raising(error):
    def fails(*words, **named):
        raise error

    return fails


FULL = OSError(errno.ENOSPC, "No space left on device")
#: what goes wrong with a served archive, and what is said of it
FAILURES = {
    "another checksum": (lambda _, patch: patch.setitem(DecathlonDataset.md5, TASK, "0" * 32), "is not the one"),
    "no file": (lambda path, _: path.unlink(), "answered 404"),
    "nobody there": (
        lambda _, patch: patch.setitem(DecathlonDataset.resource, TASK, f"http://127.0.0.1:9/{TASK}.tar"),
        "Is there a network?",
    ),
    "a reset": (
        lambda _, patch: patch.setattr(utils, "urlretrieve", raising(ConnectionResetError("reset by peer"))),
        "the download failed",
    ),
    "a part": (
        lambda _, patch: patch.setattr(utils, "urlretrieve", raising(URLError("got only 10 out of 100 bytes"))),
        "the download failed",
    ),
    # asked before each member is written
    "a full disk": (lambda _, patch: patch.setattr(utils, "safe_extract_member", raising(FULL)), "the disk is full"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(failure, served, tmp_path, monkeypatch, capsys):
    spoil, words = FAILURES[failure]
    spoil(served(), monkeypatch)
    line = fails([TASK, "--dir", str(tmp_path / "data")], capsys)
    assert words in line and (failure != "a full disk" or "--dir" in line)
    left = [f"{TASK}.tar"] if failure == "a full disk" else []  # which need not be fetched again
    assert [path.name for path in (tmp_path / "data").iterdir()] == left


@pytest.mark.parametrize("asked", ["Task04_Hippocampus", "task04", "Hippocampus", "hippo"])
def test_a_task_may_be_named_in_part(asked):
    assert task_name(asked, list(DecathlonDataset.resource)) == TASK


def test_a_name_of_no_task_or_of_several_lists_them_and_the_kidneys_lie_elsewhere():
    tasks = list(DecathlonDataset.resource)
    for asked, words in (("Task11", "is no task"), ("task0", "may be"), ("", "is no task"), ("KiTS", "kits19")):
        with pytest.raises(UserError, match=words):
            task_name(asked, tasks)
