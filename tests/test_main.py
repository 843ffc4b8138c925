"""The command line: one line per command, errors in one line, no mistyped flag passed over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from desd_components.__main__ import COMMANDS, main


def test_every_command_is_listed_with_a_sentence(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 4


def test_an_unknown_command_is_one_line_that_names_the_known_ones(capsys):
    assert main(["phantoms"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "phantom" in error and error.startswith("error: command 'phantoms'")


def test_a_mistyped_flag_is_refused_before_anything_is_written(tmp_path: Path, capsys):
    assert main(["phantom", str(tmp_path / "family"), "--num-labeled", "4"]) == 2
    assert "--num-labeled does not exist" in capsys.readouterr().err
    assert not (tmp_path / "family").exists()


def test_a_user_error_is_one_line_and_exit_code_2(tmp_path: Path, capsys):
    assert main(["phantom", str(tmp_path / "family"), "--num-labelled=1"]) == 2
    assert capsys.readouterr().err.startswith("error: --num-labelled 1")


def test_python_dash_m_writes_a_phantom_family(tmp_path: Path):
    command = [sys.executable, "-m", "desd_components", "phantom", str(tmp_path / "f"), "--num-labelled", "4"]
    done = subprocess.run([*command, "--num-unlabelled=0", "--size=24"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "f" / "labelsTr").iterdir())) == 4


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_names_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
