"""Faults that harm are reported, and healthy runs are not; a sample here, the whole table where there are minutes."""

import json

import pytest
import torch

from desd_components.tools.fault_list import FAULTS
from desd_components.tools.fault_runs import Setting, known_again
from desd_components.tools.faults import Bench, failures, faults, markdown, nothing_left

STEPS, ONSET = 60, 10
BY_NAME = {fault.name: fault for fault in FAULTS}
SAMPLE = {
    "EMA momentum 1": "teacher_follows_not",
    "teacher receives the gradient": "teacher_gradient",
    "head of stage 2 dead": "head_without_gradient_2",
    "half-precision overflow": "not_finite",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"), STEPS, ONSET, count=64)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_fault_is_reported_by_the_alarm_that_names_it(bench, name):
    found = bench.run(Setting(), BY_NAME[name])
    step, alarm, message = found.alarms[0]
    assert alarm == SAMPLE[name]
    assert ONSET < step <= STEPS
    assert message


def test_a_healthy_run_is_quiet(bench):
    assert bench.run(Setting(seed=2, centering="sinkhorn", norm="instance")).alarms == []


def test_to_be_known_again_is_to_be_nearest():
    views = torch.eye(6)
    assert known_again(views, views) == 1
    assert known_again(torch.ones(6, 3), torch.ones(6, 3)) == 0.5
    assert abs(known_again(torch.randn(200, 8), torch.randn(200, 8)) - 0.5) < 0.1


def row(**changed):
    plain = {"fault": "a fault", "score": 0.6, "healthy_score": 0.8, "harm": 9.0, "harms": True, "loss": 1.0}
    return plain | {"steps_to_alarm": 40, "alarm": "one", "message": "It was seen. Do this.", "rescue": None} | changed


def table(*faulty, alarms=()):
    quiet = [{"setting": "plain", "seed": n, "score": 0.8 + n / 100, "alarms": list(alarms)} for n in range(3)]
    return {"steps": 130, "onset": 30, "seed": 7, "deadline": 100, "faults": list(faulty), "healthy": quiet}


def test_harm_that_is_late_or_unseen_fails_and_harmless_faults_do_not():
    assert failures(table(row(), row(fault="b", steps_to_alarm=None, harms=False))) == []
    assert failures(table(row(fault="late", steps_to_alarm=101), row(fault="unseen", steps_to_alarm=None))) == [
        "late",
        "unseen",
    ]
    assert failures(table(alarms=[{"step": 3, "name": "one"}]))[0] == "healthy: plain, seed 0"


def test_the_table_says_what_was_seen_and_what_does_no_harm():
    text = markdown(table(row(), row(fault="mild", harms=False, steps_to_alarm=None, alarm="", harm=0.2)))
    assert "| a fault | yes | 0.600 (0.800) | 9.0 | 1.000 | 30 | 40 |  | one: It was seen. |" in text
    assert "| mild | not measurably | 0.600 (0.800) | 0.2 | 1.000 | 30 | – |  | none |" in text
    assert "1 of 1 faults that harm" in text


def test_the_table_says_which_faults_a_rescue_saves():
    told = {"score": 0.79, "healthy_score": 0.8, "rescues": 1, "saved": True, "stopped": ""}
    text = markdown(table(row(rescue=told), row(rescue=told | {"saved": False, "stopped": "Stopped."})))
    assert "rescue saves 1 of the 2 faults" in text
    assert "| yes: 0.790 (0.800) after 1 |" in text
    assert "| stopped: 0.790 (0.800) after 1 |" in text


def test_too_high_a_temperature_is_rescued(bench):
    fault = BY_NAME["teacher temperature 0.3"]
    saved = bench.run(Setting(), fault, "rescue", steps=2 * STEPS)
    assert saved.rescues == 1  # by the alarm of a uniform collapse, which sounds at ln K
    assert not nothing_left(saved.loss)


def test_a_dead_head_is_not_rescued(bench):
    found = bench.run(Setting(), BY_NAME["head of stage 2 dead"], "rescue")
    assert found.rescues == 0
    assert "No setting that a rescue could change is to blame" in found.stopped


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_fault_that_harms_is_reported_in_time_and_thirty_healthy_runs_are_quiet(tmp_path):
    code = faults(output=str(tmp_path))
    assert code == 0, failures(json.loads((tmp_path / "faults.json").read_text()))
