"""The work of contenders that pre-train or read, each by its own bundle's recipe: steps, views, contexts, caches.

`benchmarks.contender` calls these where the bundle lies, which is version 0.1's or today's.
"""

from __future__ import annotations

import itertools
import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer

Turn = Callable[[], dict[str, float] | None]
BUNDLE = Path("bundles/desd_pretrain")
PAIRS = 16


def recipe(names: list[str], data: str, folder: str, **settings: Any) -> ConfigParser:
    """The pre-training bundle's configs, to take parts from; everything it writes goes into `folder`."""
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)  # an engine that is never run to its end says so when it goes
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{name}.yaml") for name in names])
    places = {"output_dir": f"{folder}/run", "cache_dir": f"{folder}/cache", "device": "cpu", "num_workers": 0}
    given = {"bundle_root": str(BUNDLE), "dataset_dir": data, **places, **settings}
    parser.update(given | ({"plan": None} if "plan" in parser.config else {}))
    parser.get_parsed_content("initialize")
    return parser


def step(names: list[str], data: str, folder: str, **settings: Any) -> Turn:
    """A turn is an optimiser step: passes, loss, optimiser, teacher, monitor; the views are given."""
    parser = recipe(names, data, folder, **settings)
    views = parser.get_parsed_content("train#trainer#prepare_batch")(next(batches(parser)))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{}] * 10_000,
        network=parser.get_parsed_content("network"),
        optimizer=parser.get_parsed_content("optimizer"),
        loss_function=parser.get_parsed_content("train#trainer#loss_function"),
        prepare_batch=lambda *_, **__: views,
        inferer=parser.get_parsed_content("train#inferer"),
        optim_set_to_none=True,
        decollate=False,
    )
    today = "handlers" in parser.config
    for name, before in (("rate", "learning_rate_handler"), ("teacher", "teacher_handler"), ("monitor", "monitor")):
        parser.get_parsed_content(f"handlers#{name}" if today else before).attach(trainer)
    begin(parser)
    trainer.interrupt_resume_enabled = True  # stopped after each step, to be run on at the next turn
    trainer.add_event_handler(Events.ITERATION_COMPLETED, trainer.interrupt)
    return trainer.run


def begin(parser: ConfigParser) -> None:
    """What else a run does before its trainer starts."""
    for place, line in enumerate(parser["run"]):
        if line == "$desd_components.keep_freed_memory()":
            parser.get_parsed_content(f"run#{place}")


def batches(parser: ConfigParser) -> Iterator[Any]:
    """Batches of contexts, of one epoch after the other."""
    loader = parser.get_parsed_content("train#dataloader")
    for epoch in itertools.count(1):
        loader.sampler.set_epoch(epoch)
        yield from loader


def pairs(data: str, folder: str) -> Turn:
    """A turn reads `PAIRS` contexts, which the page cache holds, and makes a batch of pairs of views of them."""
    parser = recipe(["train"], data, folder, batch_size=PAIRS)
    contexts, prepare = batches(parser), parser.get_parsed_content("prepare_views")
    begin(parser)

    def turn() -> None:
        views, _ = prepare(next(contexts))
        assert [tuple(view.shape) for view in views] == [(PAIRS, 1, 96, 96, 16)] * 2

    return turn


def contexts(data: str, folder: str) -> Turn:
    """A turn reads a context that no memory holds; ``ms``, and ``mb`` that the disk gave for it."""
    parser = recipe(["train"], data, folder)
    dataset, keys = parser.get_parsed_content("train#dataset"), itertools.count()
    entries = [path for path in Path(folder, "cache").rglob("*") if path.is_file()]
    os.sync()

    def turn() -> dict[str, float]:
        for path in entries:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        index = next(keys) * 7 % len(dataset)  # another slab at each turn, all volumes in turn
        before, began = _read_from_disk(), time.perf_counter()
        float(dataset[index]["image"].float().sum())  # a memory map is read when it is looked at
        return {"ms": 1000 * (time.perf_counter() - began), "mb": _read_from_disk() - before}

    return turn


def _read_from_disk() -> float:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes")) / 1e6


def caching(data: str, folder: str) -> Turn:
    """A turn preprocesses all scans into a cache of its own; ``mb`` that it takes on disk."""
    parser, places = recipe(["train"], data, folder), (f"{folder}/cache_{number}" for number in itertools.count())

    def turn() -> dict[str, float]:
        place = next(places)
        parser["cache_dir"] = place
        parser.parse(reset=True)
        parser.get_parsed_content("train#dataset")
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
        shutil.rmtree(place)
        return {"mb": size / 1e6}

    return turn


def start(data: str, folder: str, ranks: int) -> Turn:
    """A turn finds volumes, their entries and hash in so many processes; CPU seconds of rank 0, and of the last."""

    def turn() -> dict[str, float]:
        command = [sys.executable, "-P", "-W", "ignore", "-m", "benchmarks.recipes", data, folder]
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871", "WORLD_SIZE": str(ranks)}
        started = [
            subprocess.Popen(
                command,
                env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        told = [process.communicate()[0] for process in started]
        if any(process.returncode for process in started):
            sys.exit(f"error: a start failed: {[process.returncode for process in started]}")
        (first, peak), (last, _) = (map(float, told[rank].split()[-2:]) for rank in (0, -1))
        return {"first": first, "further": last, "peak": peak}

    return turn


def start_rank(data: str, folder: str) -> None:
    """One process of a start; prints the CPU seconds of it after its imports, and its peak memory in MB."""
    overlay = ["multi_gpu_train"] if int(os.environ["WORLD_SIZE"]) > 1 else []
    parser = recipe(["train", *overlay], data, folder, spacing=None)
    began = time.process_time()
    parser.get_parsed_content("train#dataset")
    parser.get_parsed_content("run_folder#facts#data" if "run_folder" in parser.config else "state#settings#data")
    print(time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, flush=True)
    parser.get_parsed_content("finalize")


if __name__ == "__main__":
    start_rank(*sys.argv[1:])
