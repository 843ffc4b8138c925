"""Signals are noted while a run lasts, and answered when its state is saved."""

import multiprocessing
import os
import signal
import time

from desd_components.runs.ending import StopSignals, _print_plainly


def test_a_signal_is_noted_and_the_first_one_counts(received):
    signals = StopSignals()
    signals.listen()
    assert signals.agreed() == 0
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert signals.agreed() == signal.SIGTERM
    signals.restore()
    assert received == []
    signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGINT]


def test_a_loader_s_worker_lets_one_signal_pass_and_dies_of_the_next(received, tmp_path):
    def work() -> None:
        (tmp_path / "ready").touch()
        while True:
            time.sleep(0.01)

    signals = StopSignals()
    signals.listen()
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    signals.restore()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    os.kill(worker.pid or 0, signal.SIGTERM)
    worker.join(0.3)
    assert worker.is_alive()
    os.kill(worker.pid or 0, signal.SIGTERM)
    worker.join(60)
    assert worker.exitcode == -signal.SIGTERM


def test_ctrl_c_before_training_is_one_plain_line(capsys):
    _print_plainly(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.splitlines() == [
        "stopped by SIGINT; the same command starts again, and goes on where it saved a state."
    ]
