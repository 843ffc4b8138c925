"""The command line: one line per command, errors in one line, no mistyped flag passed over."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import desd_components
from desd_tools.__main__ import COMMANDS, _find, main


def test_every_command_is_listed_with_a_sentence(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["phantoms"], "command 'phantoms' does not exist. Choose one of: plan, pretrain, "),
        (["phantom", "family", "--num-labeled", "4"], "desd phantom: flag --num-labeled does not exist."),
        (["phantom", "family", "--num-labelled=1"], "--num-labelled 1 --num-unlabelled 60: a split "),
        (["phantom", "family", "--size", "large"], "desd phantom: --size large: give a whole number."),
        (["check", ".", "--in-channels=two"], "desd check: --in-channels two: give a whole number."),
        (
            ["download", "Task04", "--keep-archive=perhaps"],
            "desd download: --keep-archive perhaps: give true or false.",
        ),
        (["pack", "bundles/desd_pretrain", "--output"], "desd pack: flag --output has no value. Say --output=VALUE."),
        (
            ["export", "a.pt", "--format", "--output=a.onnx"],
            "desd export: flag --format has no value. Say --format=VALUE.",
        ),
        (["report"], "desd report: no run was named."),
        (["check"], "desd check: DATA is missing. Give --data VALUE."),
        (["export", "a.pt", "onnx"], "desd export: OUTPUT is missing. Give --output VALUE."),
        (["import-weights", "--output", "a"], "desd import-weights: FILE is missing."),
        (["pack", "bundles/desd_pretrain"], "desd pack: OUTPUT is missing."),
        (["gallery", "runs", "page", "more"], "desd gallery: more is one argument too many."),
    ],
)
def test_a_command_that_cannot_be_run_is_one_line_before_anything_is_written(
    words, line, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["2024", "a,b", "1e5", "None"])
def test_a_folder_is_called_what_its_name_says(name, tmp_path: Path, monkeypatch, known_speed):
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", name, "--num-labelled=4", "--num-unlabelled=0", "--size=24"]) == 0
    assert main(["check", name, "--output", f"{name}/1.5"]) == 0
    assert {path.name for path in (tmp_path / name).iterdir()} > {"imagesTr", "1.5"}


def test_false_is_not_true(tmp_path: Path, monkeypatch):
    seen = {}
    monkeypatch.setattr("desd_tools.pack.pack.pack_one", lambda *_: Path("packed"))
    monkeypatch.setattr("desd_tools.pack.pack_checks.check_packed", lambda packed: seen.setdefault("checked"))
    assert main(["pack", "bundles/desd_pretrain", f"--output={tmp_path}", "--checks", "false"]) == 0
    assert not seen


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == desd_components.__version__


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word():
    command = [sys.executable, "-m", "desd_tools", "--version"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()  # as `head` does after its lines
        assert running.stderr.read() == b""
    assert running.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_names_its_arguments(name, capsys):
    vars(_find(name)).pop("FIRE_METADATA", None)  # of the calls above; a process has one
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "GROUP" not in "".join(capsys.readouterr())
