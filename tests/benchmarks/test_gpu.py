"""The promises of a GPU, rehearsed on a CPU: no mistake is left for a card to find."""

import json
import time

import pytest
import torch
from forks import forked_commands

from benchmarks.gpu import run
from benchmarks.gpu.promise import Found, Promise
from benchmarks.gpu.table import PROMISES
from benchmarks.gpu.training import busy, dearest

TWICE = ("both bundles", "step at 32", "step at 192")  # the same code as others, at another size or precision


def rehearse(folder, *more):
    with forked_commands():
        return run.main(["--device", "cpu", "--quick", "--output", str(folder), *more])


def test_every_promise_holds_on_a_cpu(tmp_path, monkeypatch):
    for name in TWICE:
        monkeypatch.delitem(PROMISES, name)
    code = rehearse(tmp_path)
    told = json.loads((tmp_path / "promises.json").read_text())
    logs = "\n".join(log.read_text()[-1500:] for log in (tmp_path / "logs").iterdir())
    assert {name: each["said"] for name, each in told["promises"].items() if not each["held"]} == {}, logs
    assert code == 0
    step = told["promises"]["step at 32, amp"]["figures"]
    assert len(step["dearest"]) == 10 and step["seconds a step"] > 0 and step["kernels a step"] > 100
    page = (tmp_path / "index.html").read_text()
    assert "a rehearsal, which measures nothing" in page and "dearest kernels of a step" in page


def broken(card):
    raise ValueError("a wrong name")


def killed(card):
    import os

    os.kill(os.getpid(), 9)


def test_a_promise_that_fails_dies_or_hangs_does_not_stop_the_others(tmp_path, monkeypatch):
    tried = {
        "raises": broken,
        "dies": killed,
        "hangs": lambda card: time.sleep(60),
        "holds": lambda card: Found(True, ""),
    }
    monkeypatch.setattr(run, "REHEARSAL_SECONDS", 5)
    for name in list(PROMISES):
        monkeypatch.delitem(PROMISES, name)
    for name, function in tried.items():
        monkeypatch.setitem(PROMISES, name, Promise(name, "", 5, function))
    assert rehearse(tmp_path) == 1
    told = json.loads((tmp_path / "promises.json").read_text())["promises"]
    assert {name: each["held"] for name, each in told.items()} == dict.fromkeys(tried, False) | {"holds": True}
    assert told["raises"]["said"] == "ValueError: a wrong name"
    assert "exit code -9" in told["dies"]["said"]
    assert told["hangs"]["said"] == "did not end within 5 s"


def test_without_a_gpu_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.main(["--output", str(tmp_path / "gpu")]) == 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "sees no GPU: nothing was tried" in said
    assert not (tmp_path / "gpu").exists()


def test_all_promises_end_within_ten_minutes_on_one_card():
    assert run.SECONDS < 600


def test_a_device_is_busy_where_kernels_overlap_only_once():
    assert busy([(0, 1), (0.5, 2), (3, 4), (3.2, 3.5)]) == pytest.approx(3)


def test_kernels_are_added_up_by_name():
    rows = [("a", 0.0, 1.0), ("b", 1.0, 4.0), ("a", 5.0, 6.0)]
    assert dearest(rows) == [("b", 3.0, 1), ("a", 2.0, 2)]
