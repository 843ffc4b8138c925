"""Trainings as the bundles make them: end to end, step by step, stopped, moved, and in several processes."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.volumes import write_scans
from desd_components import encoder_from
from desd_components.runs.state import StatePair, state_to_resume
from desd_tools.places import BUNDLES, ROOT
from desd_tools.studies.commands import bundle_command
from desd_tools.studies.machine import usable_cores
from desd_tools.studies.phantom.phantom import write_family

from .promise import Card, Found

WARM, TIMED, PROFILED = 5, 20, 4  # steps, one after the other
DEAREST = 10
IDLE = 0.25  # of the time, for which a GPU may wait at the published batch of a process
MINUTES = 0.4  # of each training from end to end
EPOCHS, STOPPED_AFTER = 2, 3  # of a tiny run, and iterations after which it is stopped: within an epoch


def configs(bundle: str, *names: str) -> list[str]:
    """Paths of a bundle's configs."""
    return [str(BUNDLES / bundle / "configs" / f"{name}.yaml") for name in names]


def begin(words: Sequence[str], log: Path, **environment: str) -> subprocess.Popen:
    """Start a command in a process of its own."""
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, *words[1:]],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def end_to_end(card: Card, amp: bool) -> Found:
    """Pre-train, fine-tune from the encoder and segment, by the commands that people type."""
    data, cache = write_volumes(card), {"cache_dir": card.folder / "cache", "device": card.device}
    pretrained, tuned, segmented = (card.folder / name for name in ("pretrained", "tuned", "segmented"))
    recipe = ["train", "small", *(["smoke"] if card.quick else [])]
    trained = {"dataset_dir": data, **cache, "amp": amp, **({} if card.quick else {"minutes": MINUTES})}
    tuning = {**trained, "data_split": data / "splits.json", "encoder_checkpoint": pretrained / "encoder.pt"}
    scans = {"dataset_dir": data / "imagesTr", "checkpoint": tuned / "model.pt", "device": card.device, "amp": amp}
    commands = {
        "pretrained": bundle_command(
            "training", configs("desd_pretrain", *recipe), trained | {"output_dir": pretrained}
        ),
        "tuned": bundle_command("training", configs("desd_seg_finetune", *recipe), tuning | {"output_dir": tuned}),
        "segmented": bundle_command("", configs("desd_seg_finetune", "inference"), scans | {"output_dir": segmented}),
    }
    seconds = {}
    for name, words in commands.items():
        began = time.monotonic()
        code = begin(words, card.folder / f"{name}.txt").wait()
        seconds[name] = time.monotonic() - began
        if code != 0:
            return Found(False, f"{name}: exit code {code}: {last_line(card.folder / f'{name}.txt')}", {})
    losses, dice = recorded(pretrained, "loss"), recorded(tuned, "val_mean_dice")
    written, wanted = len(list(segmented.glob("*.nii.gz"))), len(list((data / "imagesTr").iterdir()))
    devices = {json.loads((folder / "environment.json").read_text())["device"] for folder in (pretrained, tuned)}
    held = written == wanted and devices == {card.device} and all(map(math.isfinite, losses))
    said = f"{written} of {wanted} scans segmented on {', '.join(sorted(devices))}; Dice {dice[-1]:.3f} at the end"
    return Found(held, said, {"seconds": seconds, "loss": [losses[0], losses[-1]], "dice": dice[-1]})


def write_volumes(card: Card) -> Path:
    """Labelled phantoms, as `desd phantom` writes them."""
    return write_family(card.folder / "data", *((4, 0, 0, 24) if card.quick else (12, 0, 0, 48)))


def recorded(folder: Path, name: str) -> list[float]:
    """The values of a figure that a run wrote down as it went."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def last_line(log: Path) -> str:
    """Where an error is told."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


class Stopwatch:
    """Time some steps of a trainer, then look at a few with torch's profiler, then interrupt it within its epoch."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.warm, self.timed, self.profiled = (1, 2, 1) if card.quick else (WARM, TIMED, PROFILED)
        activity = ProfilerActivity.CUDA if card.on_gpu else ProfilerActivity.CPU
        self.profile = profile(activities=[activity])
        self.steps = self.warm + self.timed + self.profiled
        self.seconds = self.watched = 0.0
        self._began = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        """Count its iterations."""
        engine.interrupt_resume_enabled = True
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Start and stop where it is time to."""
        done = engine.state.iteration
        if done not in (self.warm, self.warm + self.timed, self.steps):
            return
        self.card.wait()
        passed = time.perf_counter() - self._began
        if done == self.warm + self.timed:
            self.seconds = passed / self.timed
            self.profile.start()
        elif done == self.steps:
            self.watched = passed
            self.profile.stop()
            engine.interrupt()
        self._began = time.perf_counter()

    def kernels(self) -> list[tuple[str, float, float]]:
        """Name, start and end, in seconds, of all that ran on the device."""
        kind = DeviceType.CUDA if self.card.on_gpu else DeviceType.CPU
        events = [e for e in self.profile.events() or [] if e.device_type == kind and not e.is_user_annotation]
        return [(e.name, e.time_range.start / 1e6, e.time_range.end / 1e6) for e in events]


def busy(intervals: Sequence[tuple[float, float]]) -> float:
    """How long at least one of the intervals lasts."""
    total, until = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def dearest(kernels: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, int]]:
    """Name, seconds and calls of those that took longest in all."""
    taken: dict[str, list[float]] = {}
    for name, start, end in kernels:
        taken.setdefault(name, []).append(end - start)
    rows = [(name, sum(each), len(each)) for name, each in taken.items()]
    return sorted(rows, key=lambda row: -row[1])[:DEAREST]


def published_step(card: Card, batch: int, amp: bool) -> Found:
    """Let the published recipe's own trainer make steps, its loader and the monitor's looks included."""
    batch = 2 if card.quick else batch
    (card.folder / "scans").mkdir()
    write_scans(card.folder / "scans", (24, 24, 24) if card.quick else (320, 320, 80))
    watch = Stopwatch(card)
    workflow = made(
        card,
        ["train", "smoke"] if card.quick else ["train"],
        "run",
        dataset_dir=card.folder / "scans",
        batch_size=batch,
        samples_per_epoch=batch * (watch.steps + 1),
        amp=amp,
        num_workers=0 if card.quick else min(8, usable_cores()),
    )
    trainer = workflow.parser.get_parsed_content("train#trainer")
    watch.attach(trainer)
    try:
        trainer.run()
    except torch.OutOfMemoryError as error:
        whole = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Found(True, f"does not fit a card of {whole:.0f} GB", {"out of memory": str(error).splitlines()[0]})
    kernels, loss = watch.kernels(), float(trainer.state.output["loss"])
    # a container may forbid the profiler to look: then nothing is known of it
    idle = 1 - busy([(start, end) for _, start, end in kernels]) / watch.watched if kernels else None
    memory = torch.cuda.max_memory_allocated() / 1e9 if card.on_gpu else 0.0
    figures = {
        "seconds a step": watch.seconds,
        "pairs a second": batch / watch.seconds,
        "peak memory, GB": memory,
        "share of time that the device waits": idle,
        "loss": loss,
        "kernels a step": len(kernels) / watch.profiled,
        "dearest": [
            (name, seconds / watch.profiled, calls / watch.profiled) for name, seconds, calls in dearest(kernels)
        ],
    }
    waits = "how long it waits was not seen" if idle is None else f"waits {idle:.0%}"
    said = f"{watch.seconds:.3f} s a step, {batch / watch.seconds:.0f} pairs a second, {memory:.1f} GB; {waits}"
    return Found(math.isfinite(loss) and (card.quick or idle is None or idle <= IDLE), said, figures)


def made(card: Card, names: Sequence[str], output: str, **settings: Any) -> ConfigWorkflow:
    """A pre-training, initialised."""
    places = {"output_dir": card.folder / output, "cache_dir": card.folder / "cache"}
    given = {"device": card.device, **places, **settings}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    bundle = str(BUNDLES / "desd_pretrain")
    workflow = ConfigWorkflow(configs("desd_pretrain", *names), run_id="training", bundle_root=bundle, **plain)
    workflow.initialize()
    return workflow


def tiny_run(
    card: Card, output: str, stop: bool = False, recipe: Sequence[str] = ("train", "smoke"), **more: Any
) -> Path:
    """A tiny pre-training, to its end or stopped within an epoch; its folder."""
    settings = {"dataset_dir": card.folder / "data" / "imagesTr", "max_epochs": EPOCHS, **more}
    workflow = made(card, recipe, output, **settings)
    if stop:
        trainer = workflow.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=STOPPED_AFTER), lambda: trainer.terminate())
    workflow.run()
    workflow.finalize()
    return card.folder / output


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Student, teacher and center as a run left them."""
    found = state_to_resume(StatePair(folder), "auto")
    assert found is not None, f"{folder} holds no state"
    objects = found[1]["objects"]
    return {name: value.cpu() for part in ("network", "loss") for name, value in objects[part].items()}


def apart(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of two numbers; 0 where every bit is the same."""
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def resumed(card: Card) -> Found:
    """Train twice without a break, and once with one: it may differ as the two do, whose kernels torch does not fix."""
    write_volumes(card)
    figures, lines = {}, []
    for recipe in (("train", "smoke"), ("train", "small", "smoke")):
        name = recipe[-2]
        first, second = (tensors_of(tiny_run(card, f"{name}_{n}", recipe=recipe)) for n in (1, 2))
        tiny_run(card, f"{name}_stopped", True, recipe)
        gone_on = tensors_of(tiny_run(card, f"{name}_stopped", False, recipe))
        figures[name] = {"two runs": apart(first, second), "with a break": apart(first, gone_on)}
        lines.append(f"{name}.yaml: {figures[name]['with a break']:.1e} (two runs: {figures[name]['two runs']:.1e})")
    held = all(each["with a break"] <= 10 * each["two runs"] for each in figures.values())
    return Found(held, "; ".join(lines), figures)


def moved(card: Card) -> Found:
    """Let runs go on on the other kind of device, and an encoder say there what it says here."""
    write_volumes(card)
    for name, (before, after) in {"down": (card.device, "cpu"), "up": ("cpu", card.device)}.items():
        tiny_run(card, name, True, device=before)
        tiny_run(card, name, device=after)
    found = [state_to_resume(StatePair(card.folder / name), "auto") for name in ("down", "up")]
    epochs = [state[1]["epoch"] for state in found if state is not None]
    volume, features = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)), []
    with torch.no_grad():
        for device in ("cpu", card.device):
            encoder = encoder_from(card.folder / "down" / "encoder.pt").to(device).eval()
            features.append(encoder(volume.to(device)).cpu())
    far = float((features[0] - features[1]).abs().max())
    said = f"both runs went on to epoch {epochs} of {EPOCHS}; features {far:.1e} apart"
    return Found(epochs == [EPOCHS] * 2 and far <= 1e-3, said, {"features apart": far})


def processes(card: Card, count: int) -> Found:
    """Pre-train in a process group, as `torchrun` forms it."""
    if card.on_gpu and torch.cuda.device_count() < count:
        return Found(None, f"{torch.cuda.device_count()} card is here")
    write_volumes(card)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    settings = {"dataset_dir": card.folder / "data" / "imagesTr", "cache_dir": card.folder / "cache"}
    words = bundle_command(
        "training",
        configs("desd_pretrain", "train", "smoke", "multi_gpu_train"),
        {**settings, "output_dir": card.folder / "run"},
    )
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    group |= {} if card.on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    logs = [card.folder / f"process_{rank}.txt" for rank in range(count)]
    started = [begin(words, log, **group, RANK=str(n), LOCAL_RANK=str(n)) for n, log in enumerate(logs)]
    codes = [process.wait() for process in started]
    if any(codes):
        failed = next(n for n, code in enumerate(codes) if code)
        return Found(False, f"process {failed} of {count}: exit code {codes[failed]}: {last_line(logs[failed])}")
    facts = json.loads((card.folder / "run" / "environment.json").read_text())
    held = facts["processes"] == count and facts["device"].startswith(card.device)
    said = f"{facts['processes']} on {facts['device']}; loss {recorded(card.folder / 'run', 'loss')[-1]:.4f}"
    return Found(held, said)
