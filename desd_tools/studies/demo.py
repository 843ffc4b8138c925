"""The whole story in one command: pre-train, fine-tune twice, evaluate, segment new scans, and a page about it.

Where from: ours. Every step is a command of the README in a process of its own, so that the demo shows nothing which a
user cannot type. The two fine-tunings differ in ``--encoder_checkpoint`` alone: same labels, steps and seed. The page
says what came out, whether pre-training helped or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError
from desd_components.pages import charts, results
from desd_components.pages import sections as common
from desd_components.pages.compare import compare, verdict
from desd_components.pages.page import Section, html, page
from desd_components.pages.runs import read_run

from ..places import ROOT
from . import roles
from .cases import Case, find_cases, slices_section
from .commands import bundle_command, shown
from .machine import child_environment
from .steps import Record, Step, StepRunner

ARMS = {"encoder": "from the encoder", "scratch": "from scratch"}
# What the synthetic CT needs beside small.yaml: Hounsfield units, a spacing, and minutes in place of an hour. [ours]
NO_PLAN = {"plan": "null"}  # both arms on one grid
CT = {**NO_PLAN, "intensity": "hu", "hu_window": "[-160.0,240.0]", "spacing": "[3.0,3.0,4.0]"}
PHANTOM_PRETRAIN = {**CT, "max_epochs": 8}
PHANTOM_FINETUNE = {**CT, "max_epochs": 16, "val_interval": 8}  # at 10 epochs, an arm may still take spleen for kidney
REAL_PRETRAIN = {**NO_PLAN, "max_epochs": 12}  # of small.yaml's 40: minutes here, too


@dataclass
class Plan:
    """Where everything lies, and with what it is done."""

    output: Path
    data: Path
    split: Path
    scans: Path  # data list of the images that pre-training may see
    bundles: Path
    overlays: tuple[str, ...]
    seed: int
    num_labels: int
    synthetic: bool
    smoke: bool


def demo(
    data: str = "",
    output: str = "demo",
    bundles: str = "",
    num_labels: int = 8,
    seed: int = 0,
    smoke: bool = False,
) -> None:
    """Pre-train, fine-tune with and without the encoder, evaluate, segment new scans, and write OUTPUT/index.html.

    Args:
        data: a labelled folder in the Decathlon's layout, with splits.json or without; none: synthetic volumes.
        output: everything is written there; finished steps are not repeated.
        bundles: the folder of the two bundles; by default that of the repository.
        num_labels: labelled scans to fine-tune on.
        seed: of everything.
        smoke: seconds-long steps that learn nothing, to see that all of it runs.
    """
    plan = prepare(data, output, bundles, num_labels, seed, smoke)
    runner = StepRunner(plan.output, ROOT, child_environment(most_threads=2))
    records = runner.run(data_steps(plan))
    write_lists(plan)
    records += runner.run(training_steps(plan))
    target = plan.output / "index.html"
    target.write_text(demo_page(plan, records), encoding="utf-8")
    print_result(plan)
    print(f"page: {target}")


def prepare(data: str, output: str, bundles: str, num_labels: int, seed: int, smoke: bool) -> Plan:
    """Check folders before anything starts.

    Raises:
        UserError: for a missing data or bundle folder, or an output folder with other things in it.
    """
    target = Path(output).resolve()
    if target.exists() and any(target.iterdir()) and not (target / "steps").is_dir():
        raise UserError(f"{target}: the folder is not empty and no earlier demo. Choose another --output.")
    folder = roles.bundles_folder(bundles)
    source = Path(data).resolve() if data else target / "data"
    if data and not source.is_dir():
        raise UserError(f"{source}: no such folder. Name a labelled folder such as Task04_Hippocampus: --data.")
    split = roles.split_file(source, target) if data else source / roles.SPLIT_NAME
    overlays = ("small.yaml", "smoke.yaml") if smoke else ("small.yaml",)
    return Plan(
        output=target,
        data=source,
        split=split,
        scans=target / "pretraining_scans.json",
        bundles=folder,
        overlays=overlays,
        seed=seed,
        num_labels=min(num_labels, 2) if smoke else num_labels,
        synthetic=not data,
        smoke=smoke,
    )


def data_steps(plan: Plan) -> list[Step]:
    """Synthetic volumes where no folder was named."""
    if not plan.synthetic:
        return []
    size = ["--num-labelled", "8", "--num-unlabelled", "4", "--size", "24"] if plan.smoke else []
    command = ["python", "-m", "desd_tools", "phantom", shown(plan.data), *size, "--seed", str(plan.seed)]
    return [Step("data", "make synthetic volumes", command, plan.data)]


def write_lists(plan: Plan) -> None:
    """Write which images pre-training sees, and the split where the data bring none; see `roles`."""
    roles.ensure_split(plan.data, plan.split)
    labelled = roles.labelled_scans(plan.data, plan.split, seed=plan.seed)
    if not labelled.test or not labelled.validation:
        raise UserError(
            f"{plan.split}: it names no validation or no test cases. The demo needs train, validation, test."
        )
    images = roles.pretraining_images(plan.data, labelled.sections)
    roles.write_scan_list(plan.scans, images)
    roles.write_if_new(_inventory(plan), roles.scans_hash(images, labelled.sections))


def _inventory(plan: Plan) -> Path:
    return plan.output / "steps" / "inventory.txt"


def training_steps(plan: Plan) -> list[Step]:
    """Pre-training, then fine-tuning of both arms, their evaluation, and new scans."""
    reads, name, folder = (plan.split, plan.scans, _inventory(plan)), "desd_pretrain", plan.output / "pretrain"
    configs = _configs(plan, name, "train.yaml", *plan.overlays)
    length = {} if plan.smoke else PHANTOM_PRETRAIN if plan.synthetic else REAL_PRETRAIN
    command = bundle_command("training", configs, {**_common(plan, name, plan.scans, folder), **length})
    pretrain = Step("pretrain", "pre-train without labels", command, folder, (), (*reads, *configs))
    kinds = (_finetune, _evaluate, _segment)
    return [pretrain, *(make(plan, arm, words) for make in kinds for arm, words in ARMS.items())]


def _finetune(plan: Plan, arm: str, words: str) -> Step:
    name, run = "desd_seg_finetune", plan.output / f"finetune_{arm}"
    configs = _configs(plan, name, "train.yaml", *plan.overlays)
    settings = {**_common(plan, name, plan.data, run), "data_split": plan.split, "num_labels": plan.num_labels}
    settings |= PHANTOM_FINETUNE if plan.synthetic and not plan.smoke else NO_PLAN
    settings |= {"encoder_checkpoint": plan.output / "pretrain" / "encoder.pt"} if arm == "encoder" else {}
    command = bundle_command("training", configs, settings)
    reads = (plan.split, _inventory(plan), *configs)
    before = ("pretrain",) if arm == "encoder" else ()
    return Step(f"finetune-{arm}", f"fine-tune {words}", command, run, before, reads)


def _evaluate(plan: Plan, arm: str, words: str) -> Step:
    name, run = "desd_seg_finetune", plan.output / f"finetune_{arm}"
    configs = _configs(plan, name, "train.yaml", *plan.overlays, "evaluate.yaml")
    command = bundle_command("", configs, {**_common(plan, name, plan.data, run), "section": "test"})
    title, before = f"evaluate on unseen scans, {words}", (f"finetune-{arm}",)
    return Step(f"evaluate-{arm}", title, command, run / "metrics.json", before, tuple(configs))


def _segment(plan: Plan, arm: str, words: str) -> Step:
    name, new = "desd_seg_finetune", plan.output / f"new_scans_{arm}"
    configs = _configs(plan, name, "inference.yaml")
    places = {"bundle_root": plan.bundles / name, "dataset_dir": plan.data, "data_split": plan.split, "output_dir": new}
    model = {"checkpoint": plan.output / f"finetune_{arm}" / "model.pt", "outlines": True}
    command = bundle_command("", configs, {**places, **model})
    return Step(f"segment-{arm}", f"segment new scans, {words}", command, new, (f"finetune-{arm}",), tuple(configs))


def _configs(plan: Plan, bundle: str, *names: str) -> list[Path]:
    return [plan.bundles / bundle / "configs" / name for name in names]


def _common(plan: Plan, bundle: str, data: Path, run: Path) -> dict[str, Any]:
    places = {"bundle_root": plan.bundles / bundle, "dataset_dir": data, "output_dir": run}
    return {**places, "cache_dir": plan.output / "cache", "seed": plan.seed}


def demo_page(plan: Plan, records: Sequence[Record]) -> str:
    """The page about everything that the demo did."""
    pretraining = read_run(plan.output / "pretrain", "pre-training")
    arms = [read_run(plan.output / f"finetune_{arm}", words) for arm, words in ARMS.items()]
    runs = [pretraining, *arms]
    count = len(json.loads(plan.scans.read_text())["training"])
    result = compare(arms[0].metrics, arms[1].metrics)
    tiles = {
        "Dice on unseen scans, fine-tuned from the encoder": f"{arms[0].metrics['mean']['dice']['mean']:.3f}",
        "Dice on the same scans, from scratch": f"{arms[1].metrics['mean']['dice']['mean']:.3f}",
        "unseen scans": str(result.cases),
        "labelled scans to learn from": str(plan.num_labels),
        "scans for pre-training, no label used": str(count),
        "minutes for all steps": f"{sum(record.seconds for record in records) / 60:.1f}",
    }
    remarks = [
        f"Both arms learn from the same {plan.num_labels} labelled scans with the same seed and number of steps; they "
        "differ only in the encoder they start from. This is one seed: training again with another moves the Dice of "
        "either arm, with so few labels easily by some hundredths, and the interval above does not contain that.",
    ]
    if plan.smoke:
        remarks.insert(
            0, "This was a smoke run: it shows that everything runs. Nothing was learnt, and no figure means anything."
        )
    if plan.synthetic:
        remarks.append(
            "The scans are synthetic: they show that the software works, not how well the method does on patients."
        )
    scores = results.dice_section(arms, remarks)
    scores.parts.insert(0, html.tiles(tiles))
    kind = "synthetic CT-like volumes" if plan.synthetic else plan.data.name
    lead = f"Deep self-distillation on {kind}: learn from scans without labels, then segment with few."
    sections = [
        scores,
        slices_section(new_cases(plan), arms),
        common.alarms_section(pretraining),
        charts.charts_section(pretraining),
        charts.finetuning_section(arms),
        steps_section(records),
        common.settings_section(runs),
        common.provenance_section(runs),
        common.files_section(runs, _places(plan)),
    ]
    return page("From scans without labels to a segmentation", lead, sections)


def new_cases(plan: Plan) -> list[Case]:
    """The test scans with truth and both arms' results."""
    folders = {words: plan.output / f"new_scans_{arm}" for arm, words in ARMS.items()}
    return find_cases(roles.labelled_scans(plan.data, plan.split), folders)


def steps_section(records: Sequence[Record]) -> Section:
    """What was run, how long it took, and how much memory it needed."""
    rows = [[r.title, f"{r.seconds:.0f}", f"{r.peak_mb:.0f}", "earlier" if r.skipped else "now"] for r in records]
    table = html.table(["step", "seconds", "peak memory (MB)", "run"], rows, numbers_from=1)
    commands = "\n\n".join(f"# {record.title}\n{record.command}" for record in records)
    return Section("How it was made", [table, html.folded("The commands, to copy", commands, wrap=True)])


def _places(plan: Plan) -> dict[str, str]:
    places = {str(plan.data): "the scans", str(plan.split): "who trains, validates and tests"}
    places[str(plan.scans)] = "the images that pre-training saw"
    for arm, words in ARMS.items():
        places[str(plan.output / f"new_scans_{arm}")] = f"{words}: segmented scans, and outlines/ with pictures of them"
    places[str(plan.output / "logs")] = "the output of every command"
    return places


def print_result(plan: Plan) -> None:
    """Dice of both arms, and what it is worth."""
    arms = [read_run(plan.output / f"finetune_{arm}", words) for arm, words in ARMS.items()]
    for run in arms:
        print(f"Dice {run.name}: {run.metrics['mean']['dice']['mean']:.3f}")
    print(verdict(compare(arms[0].metrics, arms[1].metrics), arms[0].name, arms[1].name))
