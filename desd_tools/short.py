"""The steps of the main job, in short: each prints the ``monai.bundle run`` command that it stands for, and runs it.

Whatever follows the folder is a setting of the bundle, as ``python -m monai.bundle run`` takes it.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from desd_components.base.errors import UserError
from desd_components.pages.run_page import PAGE
from desd_components.runs.config import PATHS
from desd_components.scans.find import require_scans
from desd_components.scans.labelled import find_labelled
from desd_components.scans.lists import find_scans
from desd_components.scans.planning.plan import make_plan

from .places import BUNDLES, ROOT
from .studies.commands import bundle_command, quoted

RUNS = Path("runs")
OWN_MODEL = BUNDLES / "desd_seg_finetune" / "models" / "model.pt"


def plan(data: str, minutes: float | None = None, cache_dir: str = "runs/cache") -> None:
    """Say what the small recipe would do with a folder of scans on this machine, and why.

    Args:
        data: scans, with labels or without.
        minutes: the budget of a training.
        cache_dir: where trainings keep what they know of scans and machine.
    """
    scans = find_scans(data)
    require_scans(data, scans)
    kinds = {"pretraining": ("desd pretrain", scans)}
    try:
        kinds["segmentation"] = ("desd finetune", find_labelled(data).training)
    except UserError as error:
        print(f"no fine-tuning: {error}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for kind, (command, found) in kinds.items():
        made = make_plan(kind, "auto", found, data, minutes, device=device, cache_dir=cache_dir)
        if made.numbers:
            words = [*command.split(), data, *([] if minutes is None else ["--minutes", f"{minutes:g}"])]
            print(f"{quoted(words)}", *made.lines(), *(f"remark: {line}" for line in made.remarks), sep="\n  ")


def of_bundle(bundle: str, word: str, *configs: str, **overlays: str) -> Callable[[Callable], Callable]:
    """Make a command of a function: output folder and settings of its own in, what to say in the end out.

    Args:
        bundle, word: what is run, and its entry.
        configs: in their order.
        overlays: setting -> the config that is put on top where it is given.
    """

    def decorated(step: Callable[[Path, str, list[str]], str]) -> Callable[[Sequence[str]], int]:
        @functools.wraps(step)
        def command(words: Sequence[str]) -> int:
            name = step.__name__
            if not words or {"-h", "--help"} & {*words}:
                print(inspect.getdoc(step), f"\nsettings: {shown_page(bundle)}, and the top of its train.yaml")
                sys.exit(0 if words else 2)
            data, *settings = words
            if data.startswith("-"):
                raise UserError(f"desd {name}: the folder comes first: desd {name} DIR {quoted(words)}")
            output = Path(given(settings, "output_dir") or RUNS / bundle / (Path(data).resolve().name.split(".")[0]))
            then = step(output, data, settings)
            more = [config for setting, config in overlays.items() if given(settings, setting)]
            run_bundle(bundle, word, [*configs, *more], data, output, settings)
            page = output / PAGE
            print(f"page: {page}" if page.is_file() else f"folder: {output}", then, sep="\n")
            return 0

        command.bundle, command.overlays = bundle, overlays  # type: ignore[attr-defined]
        return command

    return decorated


def given(settings: Sequence[str], name: str) -> str | None:
    """The value of ``--name VALUE`` or ``--name=VALUE``; None where it is not there."""
    for word, following in itertools.pairwise([*settings, ""]):
        flag, is_here, value = word.partition("=")
        if flag == f"--{name}":
            return value if is_here else following
    return None


def shown_page(bundle: str) -> str:
    """Where a bundle's settings are told."""
    return str((BUNDLES / bundle / "docs" / "README.md").relative_to(ROOT))


def run_bundle(
    bundle: str, word: str, configs: Sequence[str], data: str, output: Path, settings: Sequence[str]
) -> None:
    """Print the command in full, and let MONAI run it in this process, which is then as if it had been typed."""
    for name in PATHS:  # MONAI would look it up before a line of the bundle is run
        if (value := given(settings, name) or "").startswith("%"):
            raise UserError(f"--{name} {value}: begins with %, so it stands for a part of a config: write ./{value}.")
    here = Path.cwd()
    own: dict[str, Any] = {} if here == ROOT else {"bundle_root": BUNDLES / bundle}
    own |= {"dataset_dir": Path(data)} | ({} if given(settings, "output_dir") else {"output_dir": output})
    files = [BUNDLES / bundle / "configs" / f"{name}.yaml" for name in configs]
    command = [*bundle_command(word, files, own, here), *settings]
    print(quoted(command), flush=True)
    sys.argv = command[2:]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except Exception as error:  # told, and logged, as the bundle's own command does
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)


def newest(bundle: str, file: str) -> Path | None:
    """The last written of the runs' files of that name."""
    found = sorted((RUNS / bundle).glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


@of_bundle("desd_pretrain", "training", "train", "small")
def pretrain(output: Path, data: str, settings: list[str]) -> str:
    """Pre-train on a folder of scans, without labels: desd pretrain DIR [--minutes 10] [--SETTING VALUE ...]."""
    return f"next: {quoted(['desd', 'finetune', data, '--encoder_checkpoint', str(output / 'encoder.pt')])}"


@of_bundle("desd_seg_finetune", "training", "train", "small", unlabelled_dir="self_train")
def finetune(output: Path, data: str, settings: list[str]) -> str:
    """Fine-tune on labelled scans: desd finetune DIR [--encoder_checkpoint FILE] [--SETTING VALUE ...].

    With --unlabelled_dir SCANS those teach beside them: for runs of some hundred steps and more.
    """
    encoder = newest("desd_pretrain", "encoder.pt")
    if given(settings, "encoder_checkpoint") is None:
        more = f"; the newest encoder here: --encoder_checkpoint {encoder}" if encoder else ""
        print(f"from scratch{more}", flush=True)
    return f"next: {quoted(['desd', 'segment', 'SCANS', '--checkpoint', str(output / 'model.pt')])}"


@of_bundle("desd_seg_finetune", "", "inference")
def segment(output: Path, data: str, settings: list[str]) -> str:
    """Segment new scans: desd segment SCANS --checkpoint MODEL [--SETTING VALUE ...]."""
    if given(settings, "checkpoint") is None:
        model = newest("desd_seg_finetune", "model.pt") or OWN_MODEL
        whose = "The newest here" if model != OWN_MODEL else "The bundle's own, which knows the hippocampus"
        raise UserError(f"desd segment: which model? {whose}: --checkpoint {model}")
    return f"label maps: {output}"
