"""The label curve: its config, its keys, what it refuses, how it is stopped, and the whole of it on tiny volumes."""

import json
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from forks import forked_commands

from desd_components.base.errors import UserError
from desd_tools.places import ROOT
from desd_tools.studies import label_curve as tool
from desd_tools.studies.curve import worker
from desd_tools.studies.curve.plan import Planner
from desd_tools.studies.curve.pool import Clock, Pool
from desd_tools.studies.curve.store import Store, code_hash
from desd_tools.studies.curve.study import read_study, study_from
from desd_tools.studies.curve.units import Places, Scans, Unit, spec
from desd_tools.studies.phantom import phantom
from desd_tools.studies.steps import Step

STUDY = {
    "labels": [2],
    "seeds": 1,
    "smoke": True,
    "pretraining": {"tiny": {"settings": {"teacher_momentum": 0.9}}},
    "arms": {"scratch": {"pretraining": None}, "pretrained": {"pretraining": "tiny"}},
}
UNLABELLED = tool.DEFAULT.with_name("unlabelled.yaml")
KEY = {"settings": "1", "data": "2", "code": "3"}


def _study(tmp_path: Path, **changes):
    return study_from({**STUDY, **changes}, "study.yaml", tmp_path)


def _planner(tmp_path: Path, code: str = "c", data: str = "d", train: int = 6, bundles: Path | None = None, **changes):
    places = Places(tmp_path / "data", tmp_path / "splits.json", tmp_path / "out", bundles or ROOT / "bundles")
    return Planner(_study(tmp_path, **changes), places, Scans(train, 2, 3, data), code)


# the config


OURS = [ROOT / "results" / "hippocampus_study.yaml", *sorted(ROOT.glob("results/few_labels/*.yaml"))]


@pytest.mark.parametrize("path", [tool.DEFAULT, UNLABELLED, *OURS])
def test_the_configs_that_we_ship_are_read_and_name_only_settings_that_exist(path):
    study = read_study(path)
    places = Places(Path("data"), Path("splits.json"), Path("out"), ROOT / "bundles")
    Planner(study, places, Scans(120, 30, 50, "d"), "c").check()


def test_arms_with_and_without_unlabelled_scans_take_as_many_steps_of_as_many_crops(tmp_path):
    places = Places(tmp_path / "data", tmp_path / "splits.json", tmp_path / "out", ROOT / "bundles")
    units = Planner(read_study(UNLABELLED), places, Scans(120, 30, 50, "d"), "c").finals({})
    trainings = {unit.about["arm"]: unit.stages[0].settings for unit in units}
    assert (
        len({tuple(s[n] for n in ("batch_size", "samples_per_epoch", "max_epochs")) for s in trainings.values()}) == 1
    )
    assert {arm for arm, settings in trainings.items() if settings.get("train#mixing#share") == 0} == {"scratch"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lables": [4]}, "'lables' is not known. Did you mean 'labels'"),
        ({"arms": {"a": {"pretrainig": "tiny"}}}, "arms, a: key 'pretrainig' is not known. Did you mean 'pretraining'"),
        ({"arms": {"a": {"pretraining": "tyny"}}}, "'tyny' is not there. Did you mean 'tiny'"),
        ({"arms": {"a": {"pretraining": "tiny", "encoder": "e.pt"}}}, "Name one of them"),
        ({"arms": {"a-b": {}}}, "use letters, digits and _"),
        ({"labels": [4, 4]}, "different numbers"),
        ({"seeds": {4: 2}}, "says None for 2 labels"),
        ({"tuning": {"labels": 2, "learning_rate": ["1e-3"], "max_epochs": [2]}}, "numbers with a point"),
        ({"ours": "best"}, "ours: 'best' is not there"),
        ({"speed": {"labels": 2, "epochs": [1], "arms": ["scrach"]}}, "speed: arms: 'scrach' is not there"),
        (
            {"arms": {"a": {"settings": {"learning_rte": 1}}}},
            "arms, a: --learning_rte: .* Did you mean --learning_rate",
        ),
        ({"pretraining": {"tiny": {"settings": {"num_prototype": 1}}}}, "pretraining, tiny: --num_prototype"),
        ({"common": {"intensities": "hu"}}, "common: --intensities"),
        ({"arms": {"a": {"encoder": "gone.pt"}}}, "its encoder .*gone.pt does not exist"),
        ({"labels": [2, 40]}, "40 labels are asked for, but .* names 6 cases to train on"),
    ],
)
def test_a_config_with_a_mistake_is_refused_in_words_that_help_before_anything_starts(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        _planner(tmp_path, **changes).check()


# the units


def test_common_settings_go_to_every_config_that_knows_them_and_an_arms_own_win(tmp_path):
    common = {"spacing": [2.0, 2.0, 2.0], "class_names": ["a", "b"], "learning_rate": 0.5}
    arms = {"a": {"pretraining": "tiny", "settings": {"learning_rate": 0.1}}}
    planner = _planner(tmp_path, common=common, arms=arms)
    [pretraining] = planner.pretrainings()
    [final] = planner.finals({})
    assert "class_names" not in pretraining.stages[0].settings, "desd_pretrain has no classes"
    assert pretraining.stages[0].settings["spacing"] == final.stages[0].settings["spacing"] == [2.0, 2.0, 2.0]
    assert pretraining.stages[0].settings["learning_rate"] == 0.5
    assert final.stages[0].settings["learning_rate"] == 0.1


def test_a_training_is_given_no_validation_and_no_test_case(tmp_path):
    planner = _planner(tmp_path, tuning={"labels": 2, "learning_rate": [0.1], "max_epochs": [2]})
    for unit in (*planner.tunings(), *planner.finals({})):
        training, scoring = unit.stages[:2]
        assert training.settings["data_split"].endswith("training_split.json")
        assert training.settings["val_fraction"] == 0
        assert scoring.settings["section"] == ("validation" if unit.kind == "tuning" else "test")


def test_arms_share_labels_and_seed_and_differ_in_their_encoder_alone(tmp_path):
    scratch, pretrained = (unit.stages[0].settings for unit in _planner(tmp_path).finals({}))
    assert {**scratch, "encoder_checkpoint": pretrained["encoder_checkpoint"]} == pretrained
    assert (scratch["num_labels"], scratch["seed"]) == (2, 0)


def test_fine_tuning_seeds_take_turns_with_the_seeds_of_the_pretraining(tmp_path):
    planner = _planner(tmp_path, seeds=3, pretraining={"tiny": {"seeds": [5, 7]}}, arms={"a": {"pretraining": "tiny"}})
    assert [unit.about["pretraining_seed"] for unit in planner.finals({})] == [5, 7, 5]
    assert [unit.after for unit in planner.finals({})][1] == ("pretraining-tiny-seed-7",)


def test_all_means_every_label_of_train(tmp_path):
    unit = _planner(tmp_path, labels=["all"]).finals({})[0]
    assert "num_labels" not in unit.stages[0].settings and unit.about["labels"] == 6
    assert unit.name == "final-scratch-all-labels-seed-0"


def test_the_key_changes_with_settings_data_and_code_each_in_its_part(tmp_path):
    def key(name: str = "pretrained", **changes) -> dict:
        planner = _planner(tmp_path, **changes)
        return next(planner.key(unit) for unit in planner.finals({}) if unit.about["arm"] == name)

    first = key()
    assert key() == first
    for part, changes in (
        ("settings", {"common": {"batch_size": 3}}),
        ("settings", {"pretraining": {"tiny": {"settings": {"teacher_momentum": 0.8}}}}),
        ("settings", {"evaluation": {"overlap": 0.25}}),
        ("data", {"data": "e"}),
        ("code", {"code": "f"}),
    ):
        assert [name for name in first if key(**changes)[name] != first[name]] == [part], changes
    other_pretraining = {"pretraining": {"tiny": {"settings": {"teacher_momentum": 0.8}}}}
    assert key("scratch", **other_pretraining) == key("scratch"), "it starts from no encoder"


def test_the_code_hash_covers_package_and_configs_but_no_page(tmp_path):
    package, bundles = tmp_path / "package", tmp_path / "bundles"
    shutil.copytree(ROOT / "bundles", bundles)
    for path in ("loss.py", "pages/page.py"):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text("a = 1\n")
    names = ("train", "small", "evaluate")
    first = code_hash(bundles, names, package)
    (package / "pages" / "page.py").write_text("a = 2\n")
    assert code_hash(bundles, names, package) == first
    (package / "loss.py").write_text("a = 2\n")
    second = code_hash(bundles, names, package)
    (bundles / "desd_seg_finetune" / "configs" / "small.yaml").write_text("max_epochs: 1\n")
    assert len({first, second, code_hash(bundles, names, package)}) == 3


def test_the_commands_in_a_result_are_those_that_a_person_can_type(tmp_path):
    planner = _planner(tmp_path)
    unit = planner.finals({})[1]
    training, scoring = spec(planner.places, unit, planner.key(unit), tmp_path / "w")["record"]["commands"][:2]
    assert training.startswith(
        "python -m monai.bundle run training --config_file \"['bundles/desd_seg_finetune/configs"
    )
    assert "--num_labels 2" in training and f"--output_dir {tmp_path / 'w'}" in training
    assert "evaluate.yaml" in scoring and "--section test" in scoring and "{work}" not in training + scoring
    assert "--dataset_dir DIR " in training and str(planner.places.data) not in training + scoring, "no personal path"


# the results


def test_a_finished_result_is_found_under_its_key(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"key": KEY, "value": 7}))
    assert Store(tmp_path).find("a", KEY)["value"] == 7
    assert Store(tmp_path).find("b", KEY) is None


@pytest.mark.parametrize(
    ("part", "words"),
    [("settings", "with other settings"), ("data", "with other scans or split"), ("code", "--accept_other_code true")],
)
def test_a_result_made_otherwise_is_refused_in_a_line_that_says_in_what(tmp_path, part, words):
    (tmp_path / "a.json").write_text(json.dumps({"key": {**KEY, part: "other"}, "date": "2026-01-01"}))
    with pytest.raises(UserError, match=words) as refused:
        Store(tmp_path).find("a", KEY)
    assert "--output" in str(refused.value) and "\n" not in str(refused.value)


def test_only_another_code_can_be_accepted_and_it_is_remembered(tmp_path):
    for name, part in (("a", "code"), ("b", "data")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"key": {**KEY, part: "other"}}))
    store = Store(tmp_path, accept_other_code=True)
    assert store.find("a", KEY) is not None and store.accepted == ["a"]
    with pytest.raises(UserError, match="other scans"):
        store.find("b", KEY)


def test_a_result_cut_in_half_is_moved_aside_and_said_aloud(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"key": {"settings": "1", "da')
    assert Store(tmp_path).find("a", KEY) is None
    assert not (tmp_path / "a.json").exists() and (tmp_path / "a.json.broken1").is_file()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "a.json: is no whole result" in printed and "done again" in printed


def test_a_report_alone_leaves_a_broken_result_where_it_is(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{")
    assert Store(tmp_path).find("a", KEY, mend=False) is None
    assert (tmp_path / "a.json").is_file() and "left out" in capsys.readouterr().out


# the processes


def _job(tmp_path: Path, name: str, code: str, after: tuple[str, ...] = ()) -> Step:
    result = tmp_path / f"{name}.json"
    write = f"import json, time, pathlib; {code}; pathlib.Path({str(result)!r}).write_text(json.dumps({{'key': {{}}}}))"
    return Step(name, name, ["python", "-S", "-c", write], result, after)


def _pool(slots: int, jobs: list[Step]) -> tuple[Pool, list[Unit]]:
    units = [Unit(job.name, "final", job.title, (), {}, {}, after=job.after) for job in jobs]
    by_name = {job.name: job for job in jobs}
    return Pool(
        slots, len(jobs), jobs[0].output.parent, Clock(), lambda unit: by_name[unit.name], lambda record: ""
    ), units


def test_a_unit_waits_for_those_it_comes_after_and_no_more_run_than_there_are_slots(tmp_path, capsys):
    stamp = "import sys; p = pathlib.Path(%r); p.write_text(str(time.time())); time.sleep(0.3)"
    names = ["one", "two", "three"]
    jobs = [_job(tmp_path, name, stamp % str(tmp_path / f"{name}.began"), ()) for name in names]
    jobs.insert(0, _job(tmp_path, "last", "time.sleep(0)", ("three",)))
    done: set[str] = set()
    pool, units = _pool(1, jobs)
    pool.run(units, done)
    began = [float((tmp_path / f"{name}.began").read_text()) for name in names]
    assert began[1] - began[0] > 0.25 and began[2] - began[1] > 0.25
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    assert ": last" in lines[-1] and "elapsed" in lines[0] and done == {*names, "last"}


def test_a_failing_run_stops_the_others_and_names_its_log(tmp_path, capsys):
    jobs = [_job(tmp_path, "bad", "raise SystemExit('error: the scans are gone')"), _job(tmp_path, "slow", SLEEP)]
    pool, units = _pool(2, jobs)
    with pytest.raises(UserError, match=r"bad: ended with exit code 1; its whole log is .*bad\.log"):
        pool.run(units, set())
    assert "| error: the scans are gone" in capsys.readouterr().out
    assert not pool.runner.running and not (tmp_path / "slow.json").exists()


SLEEP = "time.sleep(60)"


def test_a_worker_killed_after_it_kept_an_encoder_keeps_it_once(tmp_path):
    source, target = tmp_path / "work" / "encoder.pt", tmp_path / "kept" / "encoder.pt"
    source.parent.mkdir()
    source.write_text("weights")
    worker._keep(source, target)
    worker._keep(source, target)  # as the next start does
    assert target.read_text() == "weights" and not source.exists()
    with pytest.raises(FileNotFoundError):
        worker._keep(source, tmp_path / "kept" / "other.pt")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_children_and_keeps_what_is_finished(tmp_path, number, status):
    pool, units = _pool(2, [_job(tmp_path, "quick", "time.sleep(0)"), _job(tmp_path, "slow", SLEEP)])

    def interrupt() -> None:
        while not (tmp_path / "quick.json").is_file() or not pool.runner.running:
            time.sleep(0.05)
        children.extend(pool.runner.running)
        os.kill(os.getpid(), number)

    children: list = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        pool.run(units, set())
    thread.join()
    assert ended.value.code == status and all(child.poll() is not None for child in children)
    assert (tmp_path / "quick.json").is_file() and not (tmp_path / "slow.json").exists()
    assert signal.getsignal(number) == before


def test_the_time_left_is_estimated_from_runs_of_the_same_kind_and_length():
    unit = Unit("u", "final", "u", (), {}, {}, epochs=4)
    clock = Clock()
    assert clock.estimate(unit) is None
    clock.add(replace(unit, kind="tuning", epochs=2), 10)
    assert clock.estimate(unit) == pytest.approx(20), "no final run yet: as the tuning, by length"
    clock.add(unit, 30)
    clock.add(replace(unit, epochs=8), 100)
    assert clock.estimate(unit) == 30
    assert clock.left([unit, unit, unit], 2).startswith("about 0:00:45 left")


# the folders


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Path:
    folder = phantom.write_family(tmp_path_factory.mktemp("data") / "family", 6, 0, seed=2, size=24)
    (folder / "splits.json").unlink()
    return folder


def test_an_output_folder_with_other_things_in_it_is_left_alone(tmp_path, family):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no earlier label curve"):
        tool.prepare(str(family), str(tmp_path), "")


def test_a_folder_without_a_split_gets_one_in_the_output_folder(tmp_path, family):
    places = tool.prepare(str(family), str(tmp_path / "out"), "")
    planner = tool.planned(_study(tmp_path), places)
    split = json.loads((tmp_path / "out" / "splits.json").read_text())
    cases = [f"phantom_{number:03d}" for number in range(6)]  # in blocks of neighbours
    assert [split[part] for part in ("train", "validation", "test")] == [cases[:4], cases[4:5], cases[5:]]
    assert not (family / "splits.json").exists(), "nothing is written among the user's scans"
    assert (planner.scans.train, planner.scans.validation, planner.scans.test) == (4, 1, 1)
    assert json.loads(places.training_split.read_text()) == {"train": split["train"]}
    seen = [Path(record["image"]).name for record in json.loads(places.scans.read_text())["training"]]
    assert not {f"{case}.nii.gz" for case in split["test"]} & set(seen)


def test_a_changed_label_changes_the_hash_of_the_scans_and_a_copy_does_not(tmp_path, family):
    own = tmp_path / "own"
    shutil.copytree(family, own, copy_function=shutil.copyfile)

    def hashed() -> str:
        return tool.planned(_study(tmp_path), tool.prepare(str(own), str(tmp_path / "out"), "")).scans.hash

    first = tool.planned(_study(tmp_path), tool.prepare(str(family), str(tmp_path / "first"), "")).scans.hash
    assert hashed() == first
    label = own / "labelsTr" / "phantom_001.nii.gz"
    shutil.copyfile(own / "labelsTr" / "phantom_002.nii.gz", label)
    assert hashed() != first


def test_a_second_call_in_the_same_folder_is_kept_out(tmp_path):
    with tool.locked(tmp_path), pytest.raises(UserError, match="another desd label-curve is"), tool.locked(tmp_path):
        pass


def test_all_runs_of_a_study_with_minutes_lie_on_one_planned_grid(family, tmp_path):
    places = tool.prepare(str(family), str(tmp_path / "out"), str(ROOT / "bundles"))
    study = _study(tmp_path, smoke=False, minutes=1, common={"batch_size": 4})
    planner = tool.planned(study, places)
    planner.check()
    [pretraining] = [unit.settings["settings"] for unit in planner.pretrainings()]
    pretrained, scratch = (unit.settings["finetuning"] for unit in planner.finals({}))
    assert pretrained == scratch and scratch["plan"] is None and scratch["batch_size"] == 4
    for name in ("spacing", "intensity"):
        assert pretraining[name] == scratch[name]
    encoder = "network_def#{}scratch_architecture"
    assert pretraining[encoder.format("")] == scratch[encoder.format("encoder#")]
    kept = json.loads(places.plan.read_text())
    places.plan.write_text(json.dumps(kept | {"desd_seg_finetune": {"roi_size": [8, 8, 8]}}))
    [first, _] = tool.planned(study, places).finals({})
    assert first.settings["finetuning"]["roi_size"] == [8, 8, 8], "a study that goes on plans anew"


@pytest.fixture(scope="module")
def finished(family, tmp_path_factory) -> tuple[Path, Path]:
    """The smoke study as people start it: its output and its config. Bundles: a copy, lest an edit meanwhile counts."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(ROOT / "bundles", folder / "bundles")
    config = folder / "study.yaml"
    config.write_text(yaml.safe_dump({**STUDY, "predictions": {"labels": 2}}))
    _call(config, family, folder)
    return folder / "out", config


def _call(config: Path, data: Path, folder: Path, **more: bool) -> None:
    with forked_commands():
        tool.label_curve(str(config), str(data), str(folder / "out"), str(folder / "bundles"), **more)


def test_every_run_of_the_study_leaves_one_json_with_scores_steps_and_commands(finished):
    output, _ = finished
    names = sorted(path.stem for path in (output / "runs").iterdir())
    finals = [f"final-{arm}-2-labels-seed-0" for arm in ("pretrained", "scratch")]
    assert names == [*finals, "pretraining-tiny-seed-0"]
    for name in finals:
        run = json.loads((output / "runs" / f"{name}.json").read_text())
        assert len(run["metrics"]["cases"]) == 1 and run["section"] == "test" and run["steps"] == 4
        assert set(run["cpu_seconds"]) == {"start", "training", "evaluation", "inference"}
        assert len(run["commands"]) == 3 and run["versions"]["torch"]
    assert (output / "encoders" / "tiny_seed0" / "encoder.pt").is_file()
    assert not list((output / "work").iterdir()), "the large folders of finished runs"


def test_summary_table_plot_and_page_are_there_and_the_page_asks_for_nothing(finished):
    output, _ = finished
    summary = json.loads((output / "summary.json").read_text())
    assert {row["arm"] for row in summary["scores"]} == {"scratch", "pretrained"}
    assert (output / "table.md").read_text().startswith("**Standard deviation of Dice over seeds.**")
    assert (output / "curve.png").stat().st_size > 5000 and "<svg" in (output / "curve.svg").read_text()
    html = (output / "index.html").read_text()
    for title in ("Result", "Gains", "What it looks like", "Details", "Settings", "How to repeat it", "Provenance"):
        assert f"<h2>{title}</h2>" in html
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", html) and "<script" not in html
    assert "This was a smoke run" in html


def test_a_second_call_repeats_nothing_and_another_config_is_refused(finished, family, capsys):
    output, config = finished
    stamps = {path: path.stat().st_mtime_ns for path in (output / "runs").iterdir()}
    _call(config, family, output.parent)
    assert "0 of 3 runs are to be done now" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (output / "runs").iterdir()} == stamps
    other = config.with_name("other.yaml")
    other.write_text(yaml.safe_dump({**STUDY, "common": {"batch_size": 1}}))
    with pytest.raises(UserError, match="with other settings"):
        _call(other, family, output.parent)


@pytest.mark.soak
def test_a_pre_training_whose_encoder_is_gone_is_done_again_only_for_runs_that_need_it(
    finished, family, tmp_path, capsys
):
    output, config = finished
    shutil.copytree(output, tmp_path / "out")
    shutil.copytree(output.parent / "bundles", tmp_path / "bundles")
    shutil.rmtree(tmp_path / "out" / "encoders")
    _call(config, family, tmp_path)
    assert "0 of 3 runs are to be done now" in capsys.readouterr().out
    (tmp_path / "out" / "runs" / "final-pretrained-2-labels-seed-0.json").unlink()
    _call(config, family, tmp_path)
    assert "2 of 3 runs are to be done now" in capsys.readouterr().out
    assert (tmp_path / "out" / "encoders" / "tiny_seed0" / "encoder.pt").is_file()


def test_a_report_alone_runs_nothing_and_says_what_is_missing(finished, family, tmp_path, capsys):
    output, config = finished
    shutil.copytree(output, tmp_path / "out")
    shutil.copytree(output.parent / "bundles", tmp_path / "bundles")
    (tmp_path / "out" / "runs" / "final-pretrained-2-labels-seed-0.json").unlink()
    (tmp_path / "out" / "index.html").unlink()
    _call(config, family, tmp_path, report_only=True)
    assert "Only 1 of 2 final runs are finished" in capsys.readouterr().out
    assert (tmp_path / "out" / "index.html").is_file()
