"""The main job in short: the long form is shown, the settings go through, the next command is named."""

import shlex
from pathlib import Path

import pytest
from bundle_runs import ROOT, succeed
from forks import desd

from desd_tools.__main__ import main
from desd_tools.short import given
from desd_tools.studies.phantom.phantom import write_family

TINY = ["--plan", "null", "--max_epochs", "2", "--samples_per_epoch=4", "--batch_size", "2", "--page", "False"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("short")
    write_family(place / "my scans", 4, 0, 0, 24)
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """What a short command says of the long form, which is not run, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("desd_tools.short.runpy.run_module", lambda *_, **__: None)
    monkeypatch.setattr("sys.argv", [])

    def told(*words):
        assert main(list(words)) == 0
        return capsys.readouterr().out

    return told


def long_form(said, bundle, *configs):
    """The words of the printed command, after those that name the bundle's configs."""
    [line] = [line for line in said.splitlines() if line.startswith("python -m monai.bundle run ")]
    words = shlex.split(line)
    files = [str(ROOT / "bundles" / bundle / "configs" / f"{name}.yaml") for name in configs]
    at = words.index("--config_file")
    assert words[at + 1] == (files[0] if len(files) == 1 else "[" + ",".join(f"'{file}'" for file in files) + "]")
    return words[at + 2 :]


def test_three_short_commands_make_a_segmentation_and_each_names_the_next(here):
    done = succeed(desd("pretrain", "my scans", *TINY))
    words = long_form(done.stdout, "desd_pretrain", "train", "small")
    run, root = "runs/desd_pretrain/my scans", str(ROOT / "bundles" / "desd_pretrain")
    assert words == ["--bundle_root", root, "--dataset_dir", "my scans", "--output_dir", run, *TINY]
    *_, folder, then = done.stdout.splitlines()
    assert folder == f"folder: {run}"
    following = shlex.split(then.removeprefix("next: desd "))
    assert following == ["finetune", "my scans", "--encoder_checkpoint", f"{run}/encoder.pt"]

    done = succeed(desd(*following, *TINY, "--output_dir", "runs/tuned"))
    words = long_form(done.stdout, "desd_seg_finetune", "train", "small")
    assert words.count("--output_dir") == 1 and "from scratch" not in done.stdout
    following = shlex.split(done.stdout.splitlines()[-1].removeprefix("next: desd "))
    assert following == ["segment", "SCANS", "--checkpoint", "runs/tuned/model.pt"]

    done = succeed(desd("segment", "my scans/imagesTr", *following[2:]))
    assert "page: runs/desd_seg_finetune/imagesTr/report.html" in done.stdout
    assert done.stdout.splitlines()[-1] == "label maps: runs/desd_seg_finetune/imagesTr"
    assert len(list(Path("runs/desd_seg_finetune/imagesTr").glob("*.nii.gz"))) == 4


def test_at_the_repository_the_long_form_is_that_of_the_pages(told, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = told("pretrain", "data/Task04_Hippocampus").splitlines()[0]
    readme = (ROOT / "README.md").read_text()
    assert line.removesuffix(" --output_dir runs/desd_pretrain/Task04_Hippocampus") in readme


@pytest.mark.parametrize("name", ["%scans", "@scans", "$scans"])
def test_a_folder_may_begin_with_what_is_a_sign_to_monai(name, told):
    assert long_form(told("pretrain", name), "desd_pretrain", "train", "small")[3] == f"./{name}"


def test_a_training_runs_on_such_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_family(Path("%scans"), 4, 0, 0, 24)
    succeed(desd("pretrain", "%scans", *TINY))
    assert Path("runs/desd_pretrain/%scans/encoder.pt").is_file()


@pytest.mark.parametrize("words", [["--output_dir", "%x"], ["--output_dir=%x"], ["--encoder_checkpoint", "%x"]])
def test_a_path_that_stands_for_a_part_of_a_config_is_refused(words, here, capsys):
    assert main(["finetune", "my scans", *words]) == 2
    assert "error: --" in (told := capsys.readouterr().err) and "begins with %" in told and "write ./%x." in told


def test_a_setting_that_no_config_has_is_refused_in_one_line(here):
    done = desd("finetune", "my scans", "--max_epoks", "3")
    assert done.returncode == 1
    assert "error: --max_epoks: the config has no such setting. Did you mean --max_epochs?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["segment", "my scans"],
            "desd segment: which model? The bundle's own, which knows the hippocampus: --checkpoint",
        ),
        (["pretrain", "--minutes", "10"], "desd pretrain: the folder comes first: desd pretrain DIR --minutes 10"),
        (["plan", "nowhere"], "nowhere"),
    ],
)
def test_what_is_missing_is_told_in_one_line(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and line in error


def test_an_encoder_at_hand_is_named_and_not_taken(tmp_path, told):
    encoder = tmp_path / "runs" / "desd_pretrain" / "before" / "encoder.pt"
    encoder.parent.mkdir(parents=True)
    encoder.touch()
    said = told("finetune", "scans")
    assert said.startswith("from scratch; the newest encoder here: --encoder_checkpoint runs/desd_pretrain/before/")
    assert "--encoder_checkpoint" not in said.splitlines()[1]


def test_unlabelled_scans_put_self_training_on_top(told):
    said = told("finetune", "scans", "--unlabelled_dir", "more")
    words = long_form(said, "desd_seg_finetune", "train", "small", "self_train")
    assert words[-2:] == ["--unlabelled_dir", "more"]


def test_a_plan_is_told_for_both_trainings(here, capsys, known_speed):
    assert main(["plan", "my scans", "--minutes", "2"]) == 0
    said = capsys.readouterr().out
    assert "desd pretrain 'my scans' --minutes 2\n  intensity" in said
    assert "desd finetune 'my scans' --minutes 2\n  intensity" in said and "roi_size" in said


def test_a_setting_is_found_however_it_is_given():
    assert given(["--a", "1", "--b=2"], "a") == "1" and given(["--a", "1", "--b=2"], "b") == "2"
    assert given([], "a") is None and given(["--ab", "1"], "a") is None
