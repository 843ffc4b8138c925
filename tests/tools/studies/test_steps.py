"""A chain of commands: run once, run again when an input changed, stop with the log of what failed."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from desd_components.base.errors import UserError
from desd_tools.studies.commands import quoted
from desd_tools.studies.steps import Step, StepRunner, keys

WRITE = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"


@pytest.fixture
def runner(tmp_path: Path) -> StepRunner:
    return StepRunner(tmp_path, tmp_path, {})


def _step(folder: Path, name: str, *more: str, after: tuple[str, ...] = (), reads: tuple[Path, ...] = ()) -> Step:
    output = folder / f"{name}.txt"
    return Step(name, f"write {name}", ["python", "-c", WRITE, str(output), *more], output, after, reads)


def test_a_finished_step_is_skipped_and_says_so(tmp_path, runner, capsys):
    step = _step(tmp_path, "one")
    [first], [second] = runner.run([step]), runner.run([step])
    assert step.output.read_text() == "x", "run once"
    assert not first.skipped and second.skipped and second.seconds == first.seconds
    assert "1/1 write one: already done, skipped" in capsys.readouterr().out


def test_a_changed_command_runs_again_in_a_clean_place(tmp_path, runner):
    runner.run([_step(tmp_path, "one")])
    [record] = runner.run([_step(tmp_path, "one", "--epochs", "2")])
    assert not record.skipped
    assert (tmp_path / "one.txt").read_text() == "x", "the old result was removed first"


def test_a_changed_config_file_runs_again_what_reads_it_and_what_follows(tmp_path, runner):
    config = tmp_path / "train.yaml"
    config.write_text("a: 1")
    steps = [_step(tmp_path, "one", reads=(config,)), _step(tmp_path, "two", after=("one",)), _step(tmp_path, "three")]
    runner.run(steps)
    config.write_text("a: 2")
    assert [record.skipped for record in runner.run(steps)] == [False, False, True]


def test_a_lost_result_is_made_again(tmp_path, runner):
    step = _step(tmp_path, "one")
    runner.run([step])
    step.output.unlink()
    assert not runner.run([step])[0].skipped
    assert step.output.exists()


def test_an_interrupted_step_starts_again_in_its_folder(tmp_path, runner):
    """So that a training finds its own state there and resumes."""
    step = _step(tmp_path, "one")
    note = {"key": keys([step])["one"], "command": "", "finished": False}
    (tmp_path / "steps" / "one.json").write_text(json.dumps(note))
    step.output.write_text("half")
    runner.run([step])
    assert step.output.read_text() == "halfx"


def test_a_failed_step_shows_the_end_of_its_log_and_its_exit_code(tmp_path, runner, capsys):
    code = "import sys; print('\\n'.join(f'line {i}' for i in range(40))); sys.exit(7)"
    step = Step("bad", "fail", ["python", "-c", code], tmp_path / "nothing")
    with pytest.raises(UserError, match=r"fail: ended with exit code 7.*logs/bad\.log"):
        runner.run([step, _step(tmp_path, "later")])
    shown = capsys.readouterr().out
    assert "| line 39\n" in shown and "| line 3\n" not in shown
    assert not (tmp_path / "later.txt").exists()


def test_peak_memory_is_that_of_the_command(tmp_path, runner):
    code = "import time; x = bytearray(150_000_000); time.sleep(0.7); open('done', 'w').close()"
    [record] = runner.run([Step("big", "take 150 MB", ["python", "-c", code], tmp_path / "done")])
    assert 150 < record.peak_mb < 250, "not that of this process, which has imported torch"


def test_a_shown_command_can_be_pasted_into_a_shell():
    command = ["python", "--config_file", "['a b.yaml','c.yaml']", "--x", "[1.0,2.0]", "it's $HOME"]
    assert shlex.split(quoted(command)) == command
    assert "\"['a b.yaml','c.yaml']\"" in quoted(command)


def test_commands_run_with_this_python_and_the_given_environment(tmp_path):
    code = "import os, sys; open('out', 'w').write(sys.executable + ' ' + os.environ['OMP_NUM_THREADS'])"
    StepRunner(tmp_path, tmp_path, {"OMP_NUM_THREADS": "1"}).run(
        [Step("env", "look", ["python", "-c", code], tmp_path / "out")]
    )
    assert (tmp_path / "out").read_text() == f"{sys.executable} 1"
