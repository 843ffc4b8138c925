"""The commands that the pages show, and tiny folders under the names that they use.

A bundle's command runs with the smoke overlay laid over its configs, in a folder of its own.
"""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from bundle_runs import ROOT, run_files
from nnunet_files import write_case, write_plans
from scan_files import write_json, write_label, write_scan

LAST = ("evaluate", "multi_gpu_train", "nnunet")  # overlays that come after all others
DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
#: those that show the main job, in the order in which a visitor goes through them
FIRST_PAGES = ["README.md", "docs/first_steps.md", "docs/many_gpus.md", "results/README.md"]
PAGES = ["README.md", "README.zh.md", "CONTRIBUTING.md", "results/README.md", *DOCS]
BUNDLE_PAGES = [f"bundles/{name}/docs/README.md" for name in ("desd_pretrain", "desd_seg_finetune")]

#: task of the paper -> its labels, in the Decathlon's words
TASKS = {
    "Task03_Liver": ("liver", "cancer"),
    "Task06_Lung": ("cancer",),
    "Task07_Pancreas": ("pancreas", "cancer"),
    "Task08_HepaticVessel": ("Vessel", "Tumour"),
    "Task09_Spleen": ("spleen",),
    "Task10_Colon": ("colon cancer primaries",),
}


def shell_lines(page: str) -> list[str]:
    """A page's commands in order, comments cut off: bash blocks, and what starts Python in those of no language."""
    shown = re.sub(r"<!--.*?-->", "", (ROOT / page).read_text(), flags=re.S)  # a bundle's page hides its packed form
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", shown, flags=re.S | re.M)
    lines = [
        line
        for language, block in blocks
        for line in block.splitlines()
        if language == "bash" or (not language and line.startswith(("python ", "torchrun ")))
    ]
    words = (shlex.join(shlex.split(line, comments=True)) for line in lines)
    return [line for line in words if line]


def bundle_commands(*pages: str) -> list[str]:
    """The commands of pages that start a bundle, each once, in order."""
    return list(dict.fromkeys(line for page in pages for line in shell_lines(page) if "monai.bundle run" in line))


def short(line: str) -> str:
    """A name for a command in the list of tests."""
    return " ".join(re.findall(r"(?<=configs/)\w+|^\w+|Task\w+|KiTS|(?<=--)regions", line)) or line[:40]


@dataclass
class BundleCommand:
    """A command that starts a bundle, with the smoke overlay and the paths of a folder of tiny data."""

    bundle: str
    files: list[str]
    settings: dict[str, Any]
    training: bool
    processes: int

    def run(self, own_process: bool = False) -> CompletedProcess:
        """What it says, in a process of its own or not; see `run_files`."""
        words = ["training"] if self.training else []
        how = {"processes": self.processes, "own_process": own_process}
        return run_files(self.files, *words, **how, **self.settings)


def smoke_command(line: str, world: Path) -> BundleCommand:
    """The command of a page, made quick, its paths below `world`."""
    words = shlex.split(line)
    given: dict[str, Any] = {
        word[2:]: words[place + 1] for place, word in enumerate(words) if word.startswith("--") and "=" not in word[2:]
    }
    given.pop("standalone", None)
    [bundle] = set(re.findall(r"bundles/(\w+)/", line))
    files, training = with_smoke(given.pop("config_file")), "training" in words
    for name in (
        "dataset_dir",
        "unlabelled_dir",
        "encoder_checkpoint",
        "init_checkpoint",
        "checkpoint",
        "output_dir",
        "nnunet_plans",
    ):
        if name in given:
            given[name] = world / given[name]
    given.setdefault("output_dir", world / "runs" / bundle / "default")
    if any(file.endswith("/train.yaml") for file in files):
        given["cache_dir"] = world / "cache"
    if training:
        given["resume"] = "never"
        given.pop("minutes", None)  # the smoke overlay's epochs would be repeated until they are over
        given |= {"batch_size": 1} if "torchrun" in words[0] else {}
    if files[0].endswith("/inference.yaml"):
        run = "encoder.pt" if bundle == "desd_pretrain" else "model.pt"
        given.setdefault("checkpoint", world / "runs" / bundle / "default" / run)
    return BundleCommand(bundle, files, given, training, 1 + ("torchrun" in words[0]))


def with_smoke(config_file: str) -> list[str]:
    """The config files of a command, the smoke overlay among them."""
    files = ast.literal_eval(config_file) if config_file.startswith("[") else [config_file]
    if not any(file.endswith("/train.yaml") for file in files):
        return files
    smoke = files[0].replace("train.yaml", "smoke.yaml")
    last = [file for file in files if file.endswith(tuple(f"/{name}.yaml" for name in LAST))]
    return [*(file for file in files if file not in last), smoke, *last]


def make_world(folder: Path) -> Path:
    """Tiny data under the names that the pages use."""
    data = folder / "data"
    hippocampus = data / "Task04_Hippocampus"
    write_decathlon(hippocampus, ("one", "two"), cases=12, validation=2)
    cases = [f"case_{number}" for number in range(12)]
    write_json(hippocampus / "splits.json", {"train": cases[:8], "validation": cases[8:10], "test": cases[10:]})
    for name in ("scans", "deeplesion"):
        for number in range(4):
            write_scan(data / name / f"new_{number}.nii.gz", (24, 18, 20), seed=number)
    plans = write_plans(folder / "preprocessed" / "Dataset004_Hippocampus")
    for number in range(4):
        write_case(plans.parent / "nnUNetPlans_3d_fullres", f"case_{number}", seed=number)
    return folder


def write_decathlon(folder: Path, labels: tuple[str, ...], cases: int = 4, validation: int = 0) -> Path:
    """A folder in the Decathlon's layout: imagesTr, labelsTr, imagesTs and dataset.json."""
    names = [f"case_{number}" for number in range(cases)]
    for number, name in enumerate(names):
        shape = (20 + number % 6, 22, 21)
        write_scan(folder / "imagesTr" / f"{name}.nii.gz", shape, seed=number)
        write_label(folder / "labelsTr" / f"{name}.nii.gz", shape, classes=len(labels) + 1)
    write_scan(folder / "imagesTs" / "unseen.nii.gz", (20, 22, 21), seed=cases)
    pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    content: dict[str, Any] = {"labels": dict(enumerate(("background", *labels))), "modality": {"0": "CT"}}
    content |= {"training": pairs[: cases - validation], "test": ["./imagesTs/unseen.nii.gz"]}
    write_json(folder / "dataset.json", content | ({"validation": pairs[cases - validation :]} if validation else {}))
    return folder
