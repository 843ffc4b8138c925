"""Faults that harm are reported, and healthy runs are not; a sample here, the whole table where there are minutes."""

import json
import math

import pytest
import torch

from benchmarks.faults.bench import Bench, described, ended, faults, lost_score
from benchmarks.faults.injected import FAULTS
from benchmarks.faults.runs import Finding, Setting, healthy_settings
from benchmarks.faults.scores import known_again
from benchmarks.faults.table import failures, in_time, markdown
from desd_components.base.errors import UserError

STEPS, ONSET = 60, 10
BY_NAME = {fault.name: fault for fault in FAULTS}
SAMPLE = {
    "EMA momentum 1": "teacher_follows_not",
    "teacher receives the gradient": "teacher_gradient",
    "head of stage 2 dead": "head_without_gradient_2",
    "both views the same": "same_views",
    "learning rate x 100": "steps_too_large",
    "prototypes frozen for ever": "prototypes_without_gradient",
    "heads with layer norm": "same_targets",
    "half-precision overflow": "not_finite",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"), STEPS, ONSET, range(1), count=16)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_fault_is_reported_by_the_alarm_that_names_it(bench, name):
    found = bench.run(Setting(), BY_NAME[name])
    step, alarm, message = found.alarms[0]
    assert alarm == SAMPLE[name]
    assert ONSET < step <= STEPS
    assert message


def test_a_healthy_run_is_quiet(bench):
    assert bench.run(Setting(seed=2, centering="sinkhorn", norm="instance")).alarms == []


def test_a_run_too_short_for_its_faults_and_too_few_healthy_ones_are_refused():
    with pytest.raises(UserError, match="steps=100: give at least 130"):
        faults(steps=100)
    with pytest.raises(UserError, match="healthy=3"):
        faults(healthy=3)


def test_to_be_known_again_is_to_be_nearest():
    views = torch.eye(6)
    assert known_again(views, views) == 1
    assert known_again(torch.ones(6, 3), torch.ones(6, 3)) == 0.5
    assert abs(known_again(torch.randn(200, 8), torch.randn(200, 8)) - 0.5) < 0.1


def row(waits=(40, 50), **changed):
    runs = [
        {
            "seed": seed,
            "score": 0.6,
            "loss": 1.0,
            "steps_to_alarm": wait,
            "alarms": [] if wait is None else [{"step": 30 + wait, "name": "one"}],
        }
        for seed, wait in enumerate(waits)
    ]
    plain = {"fault": "a fault", "harm": 9.0, "harms": True, "runs": runs}
    return plain | {"message": "It was seen. Do this." if any(waits) else ""} | changed


def table(*faulty, alarms=()):
    quiet = [
        {"setting": "plain", "seed": n, "score": 0.8 + n / 100, "untrained": 0.6, "alarms": list(alarms)}
        for n in range(3)
    ]
    told = {"steps": 330, "onset": 30, "seeds": [0, 1], "deadline": 100, "harm": 2.0, "started": "2026-01-02T03:04"}
    return told | {"faults": list(faulty), "healthy": quiet}


def test_harm_that_is_late_or_unseen_in_one_run_fails_and_harmless_faults_do_not():
    assert failures(table(row(), row([None, None], fault="b", harms=False))) == []
    assert failures(table(row([40, 101], fault="late"), row([40, None], fault="unseen"))) == ["late", "unseen"]
    assert failures(table(row([-10, 40], fault="before it was there"))) == ["before it was there"]
    assert failures(table(alarms=[{"step": 3, "name": "one"}]))[0] == "healthy: plain, seed 0"


def test_the_table_says_what_was_seen_and_what_does_no_harm():
    text = markdown(table(row(), row([None, None], fault="mild", harms=False, harm=0.2)))
    assert "| a fault | yes | 0.600 (0.805) | 9.0 | 1.00, 1.00 | 40, 50 | one: It was seen. |" in text
    assert "| mild | not measurably | 0.600 (0.805) | 0.2 | 1.00, 1.00 | –, – | none |" in text
    assert "1 of 1 faults that harm" in text
    assert "mean 0.810, sd 0.010; of which 0.210, or 21.0 sd, were learnt" in text


def finding(score, loss=2.0, stopped=""):
    return Finding(score=score, loss=loss, stopped=stopped)


def test_harm_is_what_the_mean_lost_against_the_same_seeds():
    assert lost_score({1: finding(0.7), 2: finding(0.8)}, {1: 0.8, 2: 0.8, 3: 0.1}) == pytest.approx(0.05)


def test_a_run_has_ended_where_it_stopped_or_nothing_is_left_to_learn():
    assert not ended(finding(0.8))
    assert all(map(ended, [finding(0.8, 0.01), finding(0.8, math.log(64)), finding(0.8, stopped="Stopped.")]))


def test_healthy_runs_have_a_seed_each():
    settings = healthy_settings(30, seed=50, plain=10)
    assert [setting.seed for setting in settings] == [*range(50, 60), *range(150, 170)]
    assert len({described(setting) for setting in settings}) == 21


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_fault_that_harms_is_reported_in_time_and_thirty_healthy_runs_are_quiet(tmp_path, record_property):
    code = faults(output=str(tmp_path))
    table = json.loads((tmp_path / "faults.json").read_text())
    harming = [row for row in table["faults"] if row["harms"]]
    reported = sum(in_time(row, table["deadline"]) for row in harming)
    wrong = sum(bool(row["alarms"]) for row in table["healthy"])
    record_property("fault", "faults put into the training itself, of which some harm (see the table of faults)")
    record_property("tried", f"{len(table['faults'])}, of which {len(harming)} harm")
    record_property("survived", f"{reported} reported")
    record_property(
        "seen",
        f"alarms within {table['deadline']} steps: right {reported} of {len(harming)}, wrong {wrong} of "
        f"{len(table['healthy'])} healthy runs",
    )
    assert code == 0, failures(table)
