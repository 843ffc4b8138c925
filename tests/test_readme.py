"""Every command of the README runs, on tiny volumes, with the smoke overlay laid over its configs."""

import ast
import re
import shlex

import pytest
from bundle_runs import ROOT, run_files, succeed
from scan_files import write_json, write_label, write_scan

CONFIGS = "bundles/{}/configs/{}.yaml"
LAST = ("evaluate", "multi_gpu_train")  # overlays that come after all others


def readme_commands():
    """The commands of the README's bash blocks that start a bundle, in order."""
    text = (ROOT / "README.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.S) for line in block.splitlines()]
    return [line for line in lines if "monai.bundle run" in line]


def test_the_readme_shows_the_main_job_in_full():
    commands = "\n".join(readme_commands())
    for bundle in ("desd_pretrain", "desd_seg_finetune"):
        for config in ("train", "small", "evaluate", "inference", "multi_gpu_train"):
            assert CONFIGS.format(bundle, config) in commands, (bundle, config)


def with_smoke(config_file):
    """The config files of a command, the smoke overlay among them."""
    files = ast.literal_eval(config_file) if config_file.startswith("[") else [config_file]
    if not any(file.endswith("/train.yaml") for file in files):
        return files
    smoke = files[0].replace("train.yaml", "smoke.yaml")
    last = [file for file in files if file.endswith(tuple(f"/{name}.yaml" for name in LAST))]
    return [*(file for file in files if file not in last), smoke, *last]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny data under the names that the README uses, and one place for all runs."""
    folder = tmp_path_factory.mktemp("readme")
    data = folder / "data" / "Task04_Hippocampus"
    for number in range(12):
        shape = (20 + number % 6, 22, 21)
        write_scan(data / "imagesTr" / f"case_{number}.nii.gz", shape, seed=number)
        write_label(data / "labelsTr" / f"case_{number}.nii.gz", shape)
    entries = [{"image": f"imagesTr/case_{n}.nii.gz", "label": f"labelsTr/case_{n}.nii.gz"} for n in range(12)]
    labels = {"0": "background", "1": "one", "2": "two"}
    write_json(data / "dataset.json", {"labels": labels, "training": entries[:10], "validation": entries[10:]})
    cases = [f"case_{number}" for number in range(12)]
    write_json(data / "splits.json", {"train": cases[:8], "validation": cases[8:10], "test": cases[10:]})
    for name in ("scans", "deeplesion"):
        for number in range(4):
            write_scan(folder / "data" / name / f"new_{number}.nii.gz", (24, 18, 20), seed=number)
    return folder


@pytest.mark.parametrize(
    "command", readme_commands(), ids=lambda line: " ".join(re.findall(r"(?<=configs/)\w+|^\w+", line))
)
def test_a_command_of_the_readme_runs(command, world):
    words = shlex.split(command)
    given = {
        word[2:]: words[place + 1] for place, word in enumerate(words) if word.startswith("--") and "=" not in word[2:]
    }
    given.pop("standalone", None)
    bundle = re.search(r"bundles/(\w+)/", command).group(1)
    files = with_smoke(given.pop("config_file"))
    for name in ("dataset_dir", "encoder_checkpoint", "checkpoint", "output_dir"):
        if name in given:
            given[name] = world / given[name]
    given.setdefault("output_dir", world / "runs" / bundle / "default")
    if any(file.endswith("/train.yaml") for file in files):
        given["cache_dir"] = world / "cache"
    if "training" in words:
        given["resume"] = "never"
        given |= {"batch_size": 1} if "torchrun" in words[0] else {}
    if files[0].endswith("/inference.yaml"):
        run = "encoder.pt" if bundle == "desd_pretrain" else "model.pt"
        given.setdefault("checkpoint", world / "runs" / bundle / "default" / run)
    succeed(
        run_files(
            files, *(["training"] if "training" in words else []), processes=1 + ("torchrun" in words[0]), **given
        )
    )
    assert any((given["output_dir"]).iterdir())
