"""What a machine gets through is measured once, and does not follow what else runs meanwhile."""

import pytest

from desd_components.scans.planning import machine as module
from desd_components.scans.planning.machine import Machine


def measured(monkeypatch, cache, plain: float, mixed: float, thin: float = 0.5) -> Machine:
    """The machine on which a pass takes so many seconds in float32 and in bfloat16, and a share of them if thin."""
    monkeypatch.setattr(
        module, "_seconds", lambda device, z: [plain, mixed] if z == 3 else [thin * plain, thin * mixed]
    )
    return Machine.of("cpu", cache, None)


def test_speed_is_measured_once_for_a_cache(monkeypatch, tmp_path):
    first = measured(monkeypatch, tmp_path, 0.5, 0.25)
    again = measured(monkeypatch, tmp_path, 9.0, 9.0)
    assert (again.speed, again.amp) == (first.speed, first.amp)
    assert measured(monkeypatch, tmp_path / "other", 9.0, 9.0).speed < first.speed


@pytest.mark.parametrize(("gain", "amp"), [(1.25, False), (1.35, True), (1.9, True)])
def test_bfloat16_is_taken_for_what_it_gains_not_for_how_speeds_are_rounded(monkeypatch, gain, amp):
    assert [measured(monkeypatch, None, noise * 0.04 * gain, noise * 0.04).amp for noise in (1, 1.1, 1.2, 1.3)] == [
        amp
    ] * 4


def test_a_little_noise_leaves_the_speed_as_it_is(monkeypatch):
    assert len({measured(monkeypatch, None, noise * 0.0377, 1.0).speed for noise in (1, 1.1, 1.2, 1.25)}) == 1


@pytest.mark.parametrize(("thin", "told"), [(0.33, 0.3), (0.61, 0.6), (1.2, 1.0)])
def test_what_thin_kernels_cost_is_measured_and_never_more_than_cubes(monkeypatch, thin, told):
    assert measured(monkeypatch, None, 0.5, 0.25, thin).thin == told


@pytest.mark.parametrize("z", [3, 1])
def test_passes_are_timed_here(z):
    plain, mixed = module._seconds(module.torch.device("cpu"), z)
    assert 1e-4 < plain < 10 and 1e-4 < mixed < 10


def test_bfloat16_without_instructions_for_it_is_tried_once(monkeypatch):
    seconds = iter([0.1, 9.0] + [0.1] * module.MEASURED)  # of each pass; one more would end in StopIteration
    readings = iter(number for length in seconds for number in (0.0, length))
    monkeypatch.setattr(module.time, "thread_time", lambda: next(readings))
    assert module._seconds(module.torch.device("cpu"), 3) == [0.1, 9.0]
