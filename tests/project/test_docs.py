"""The pages: every command exists with every flag, every link leads somewhere, and what they show runs on tiny volumes.

Of the commands of the README and the other first pages one of each kind runs, of those of other pages a sample, and the
rest in `make soak`.
"""

import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import monai.bundle
import pytest
from bundle_runs import ENVIRONMENT, ROOT, succeed, words_to_settings
from page_commands import (
    BUNDLE_PAGES,
    FIRST_PAGES,
    PAGES,
    TASKS,
    bundle_commands,
    make_world,
    shell_lines,
    short,
    smoke_command,
    write_decathlon,
)
from random_weights import write_encoder, write_model
from scan_files import write_label, write_scan
from torch.distributed.run import get_args_parser

from desd_components.runs.command import refuse_odd_call
from desd_components.runs.config import refuse_odd_values
from desd_tools.__main__ import _find, _refuse_unknown_flags

SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "slurm").glob("*.sbatch"))
LINES = list(dict.fromkeys(line for page in [*PAGES, *BUNDLE_PAGES] for line in shell_lines(page)))
FIRST = bundle_commands(*FIRST_PAGES)
OTHERS = [line for line in bundle_commands(*PAGES) if line not in FIRST]
SAMPLE = next(line for line in OTHERS if "Task03_Liver" in line)


# every line exists


def check_bundle_run(words: list[str]) -> None:
    """What follows ``monai.bundle``: configs that exist and settings that they have, or another command of MONAI's."""
    if words[0] == "run":
        refuse_odd_values(refuse_odd_call(*words_to_settings(*words[1:])).get())
    else:
        command = getattr(monai.bundle, words[0])
        inspect.signature(command).bind(words[1], **{flag[2:]: None for flag in words[2::2]})


def check_torchrun(words: list[str]) -> None:
    """What follows ``torchrun`` are options of it, then a bundle's command."""
    place = words.index("monai.bundle")
    get_args_parser().parse_args(words[: place + 1])
    check_bundle_run(words[place + 1 :])


def check_own_command(words: list[str]) -> None:
    """The command exists, with these flags and so many arguments."""
    name, *arguments = words
    if hasattr(_find(name), "bundle"):
        overlays = [config for setting, config in _find(name).overlays.items() if f"--{setting}" in arguments]
        configs = ["inference" if name == "segment" else "train", *overlays]
        files = [f"bundles/{_find(name).bundle}/configs/{config}.yaml" for config in configs]
        return check_bundle_run(["run", "--config_file", str(files), "--dataset_dir", *arguments])
    _refuse_unknown_flags(name, _find(name), arguments)
    named = [i for i, word in enumerate(arguments) if word.startswith("--")]
    values = [i + 1 for i in named if "=" not in arguments[i]]
    flags = {arguments[i].lstrip("-").split("=")[0].replace("-", "_"): None for i in named}
    inspect.signature(_find(name)).bind(*(a for i, a in enumerate(arguments) if i not in {*named, *values}), **flags)


def check_sbatch(words: list[str]) -> None:
    """The script exists, and its bundle has the settings that follow."""
    assert words[0] in SCRIPTS
    bundle = "desd_pretrain" if "pretrain" in words[0] else "desd_seg_finetune"
    check_bundle_run(["run", "--config_file", f"bundles/{bundle}/configs/train.yaml", *words[1:]])


def check_line(line: str) -> None:
    """Refuse a line of a page that nobody could type."""
    words = [word for word in shlex.split(line) if not re.fullmatch(r"DATA=\S+|VENV=\S+", word)]
    match words:
        case ["python", "-m", "monai.bundle", *rest]:
            check_bundle_run(rest)
        case ["torchrun", *rest]:
            check_torchrun(rest)
        case ["python", "-m", "desd_tools", *rest] | ["desd", *rest]:
            check_own_command(rest)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M), target
        case ["sbatch", *rest]:
            check_sbatch(rest)
        case ["pip", "install", "-r", file] | ["pip", "install", "--no-deps", "-e", file]:
            assert (ROOT / file).exists()
        case ["tensorboard", "--logdir", _]:
            assert importlib.util.find_spec("tensorboard")
        case _:
            raise AssertionError(f"a command of a kind that this test does not know: {line}")


@pytest.mark.parametrize("line", LINES, ids=short)
def test_a_command_of_the_pages_exists_with_all_its_flags(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_line(line)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_file_that_how_it_works_names_exists():
    """Modules by their place in the package, folders by a slash at their end; the rooms are those of the tree below."""
    names = re.findall(r"`(\w+/[\w/]*(?:\.py|/))`", (ROOT / "docs" / "how_it_works.md").read_text())
    assert len(names) > 20 and [name for name in names if not (ROOT / "desd_components" / name).exists()] == []


def test_the_tree_of_how_it_works_is_the_one_that_lint_checks():
    [tree] = re.findall(r"desd_components/\n(.*?)```", (ROOT / "docs" / "how_it_works.md").read_text(), flags=re.S)
    shown = [set(re.findall(r"(\w+)/", line)) for line in tree.splitlines()]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [layers] = [each["layers"] for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
    assert shown == [{name.removeprefix("desd_components.") for name in layer.split(" | ")} for layer in layers[1:]]


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]:
        assert page.name == "README.md" or f"({page.name})" in index, page.name


# the first page answers a visitor in order

README = (ROOT / "README.md").read_text()


def test_the_readme_is_short_and_says_linux_on_the_first_screen():
    lines = README.splitlines()
    assert len(lines) <= 130
    assert "Linux" in " ".join(lines[:25])


def test_the_readme_sets_up_with_two_commands_and_then_takes_three_steps():
    first, second, *others = shell_lines("README.md")
    assert (first, second) == ("make demo", "make test")
    assert others[1::2] == bundle_commands("README.md")  # beside each short form
    assert [line.split()[1] for line in others[::2]] == ["pretrain", "finetune", "segment"]
    steps = [("desd_pretrain", "train"), ("desd_seg_finetune", "train"), ("desd_seg_finetune", "inference")]
    assert [re.findall(r"(desd_\w+)/configs/(train|inference)", line) for line in others[1::2]] == [[s] for s in steps]


def test_the_page_in_chinese_shows_the_same_commands_and_links():
    chinese = (ROOT / "README.zh.md").read_text()
    assert shell_lines("README.zh.md") == shell_lines("README.md")
    pages = [set(re.findall(r"\]\(((?:docs|results)/[^)]+)\)", text)) for text in (README, chinese)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("bundle", ["desd_pretrain", "desd_seg_finetune"])
@pytest.mark.parametrize("config", ["train", "small", "evaluate", "inference", "multi_gpu_train"])
def test_the_first_pages_show_the_main_job_in_full(bundle, config):
    assert f"bundles/{bundle}/configs/{config}.yaml" in "\n".join(FIRST)


# the commands run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny data under the names that the pages use, and weights as trainings leave them."""
    folder = make_world(tmp_path_factory.mktemp("docs"))
    for name, labels in TASKS.items():
        write_decathlon(folder / "data" / name, labels)
    for number in range(4):
        case = folder / "data" / "kits19" / "data" / f"case_{number:05d}"
        write_scan(case / "imaging.nii.gz", (22, 20, 21), seed=number)
        write_label(case / "segmentation.nii.gz", (22, 20, 21))
    (folder / "data" / "kits19" / "data" / "case_00210").mkdir()  # the challenge's test cases have no label
    link_kits(folder)
    encoder = write_encoder(folder / "pretrained" / "encoder.pt")
    write_model(folder / "finetuned" / "model.pt", encoder)
    leave_weights(folder)
    return folder


def leave_weights(world: Path) -> None:
    """Put weights where a page's trainings leave them; those of another page have other preprocessing and classes."""
    for made, bundle in (("pretrained", "desd_pretrain"), ("finetuned", "desd_seg_finetune")):
        shutil.copytree(world / made, world / "runs" / bundle / "default", dirs_exist_ok=True)


def link_kits(folder: Path) -> None:
    """The page's own lines that give KiTS the names that we read."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "seven_tasks.md").read_text(), flags=re.S)
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(code, {})
    finally:
        os.chdir(before)


def test_all_seven_tasks_have_a_command():
    trained = [line for line in bundle_commands("docs/seven_tasks.md") if "seg_finetune" in line and "training" in line]
    for name in (*TASKS, "KiTS"):
        assert any(f"data/{name} " in line for line in trained), name


def run(line: str, world: Path) -> None:
    leave_weights(world)
    command = smoke_command(line, world)
    succeed(command.run(own_process=line == FIRST[0]))
    assert any(command.settings["output_dir"].iterdir())


def kind(line: str) -> str:
    """The bundle and its configs; torchrun, which starts Python three times, is a kind of its own."""
    return "torchrun" if line.startswith("torchrun") else " ".join(re.findall(r"desd_\w+/configs/\w+", line))


NOW = list({kind(line): line for line in reversed(FIRST)}.values())
LATER = [pytest.param(line, marks=pytest.mark.soak) for line in (*FIRST, *OTHERS) if line not in (*NOW, SAMPLE)]


@pytest.mark.parametrize("line", [*NOW, SAMPLE, *LATER], ids=short)
def test_a_command_of_the_pages_runs(line, world):
    run(line, world)


# SLURM

#: options of sbatch, as its manual lists them, that our scripts use
SBATCH = ("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task")
SBATCH += ("time", "signal", "dependency", "output")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_slurm_script_is_bash_with_options_that_exist(script, monkeypatch):
    monkeypatch.chdir(ROOT)
    subprocess.run(["bash", "-n", script], check=True)
    text = Path(script).read_text()
    assert set(re.findall(r"^#SBATCH --([\w-]+)=\S+$", text, flags=re.M)) == set(SBATCH)
    assert len(re.findall("^#SBATCH", text, flags=re.M)) == len(SBATCH)
    check_torchrun(shlex.split(started_by(script, {}, echo=True))[1:])


def started_by(script: str, settings: dict[str, str], echo: bool = False, *more: str) -> str:
    """What a script starts on a cluster of one node with two GPUs, or the output of that."""
    stand_ins = 'scontrol() { echo localhost; }; srun() { if [ "$ECHO" ]; then printf "%q " "$@"; else "$@"; fi; }'
    variables = {"SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    variables |= {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    variables |= {"ENVIRONMENT": sys.prefix, "ECHO": "1" if echo else ""}
    words = ["bash", "-c", f'{stand_ins}; source "$0" "$@"', script, *more]
    done = subprocess.run(
        words, cwd=ROOT, env={**ENVIRONMENT, **variables, **settings}, capture_output=True, text=True, timeout=600
    )
    return succeed(done).stdout


@pytest.mark.soak
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_slurm_script_trains_in_two_processes(script, world):
    bundle = "desd_pretrain" if "pretrain" in script else "desd_seg_finetune"
    configs = [f"bundles/{bundle}/configs/{name}.yaml" for name in ("train", "smoke", "multi_gpu_train")]
    output = world / "runs" / Path(script).stem
    settings = {"CONFIGS": str(configs), "DATA": str(world / "data" / "Task09_Spleen")}
    paths = ["--output_dir", str(output), "--cache_dir", str(world / "cache"), "--batch_size", "1"]
    started_by(script, settings, False, *paths)
    assert (output / ("encoder.pt" if bundle == "desd_pretrain" else "model.pt")).is_file()
