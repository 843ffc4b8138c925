"""The table of what is to be fast and small: each row's figure, its goal, and its range, from turns in one run.

A row compares with version 0.1, out of this repository's history, or with MONAI's stock sliding window. The authors'
scripts are not run: their figures were measured once beside version 0.1, so what is measured against version 0.1 is
multiplied by what that took of theirs.

    python -m benchmarks [ROW ...]

Each row is written into results/bench.json as it ends; the table there is of all rows that it holds.
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .contender import ROOT, Contender, by_turns, version_01
from .volumes import write_scans, write_tiny

RESULTS = ROOT / "results" / "bench.json"
COUNTS = (250, 1000, 4000, 10_600)  # of volumes
CLASSES = (3, 20, 100)


class Figure(NamedTuple):
    """One cell of the table.

    Attributes:
        what: it is, with its unit.
        values: of each round.
        goal, at_least: what is wanted; None where nothing was set.
        beside: the same of who is compared, in its own unit; empty where there is none.
        least_is_best: False where more is better.
    """

    what: str
    values: list[float]
    goal: float | None = None
    at_least: float | None = None
    beside: str = ""
    least_is_best: bool = True


class Bench:
    """A folder for a row, with version 0.1 in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._made = folder, 0

    def against_01(self, work: str, rounds: int, **settings: Any) -> tuple[dict, dict]:
        """Figures of today's package, and of version 0.1, that do the same by turns."""
        old = self.folder / "version_01"
        trees = {"now": ROOT, "0.1": old if old.is_dir() else version_01(old)}
        seen = by_turns({name: self.contender(work, tree, **settings) for name, tree in trees.items()}, rounds)
        return seen["now"], seen["0.1"]

    def contender(self, work: str, tree: Path = ROOT, **settings: Any) -> Contender:
        """A process with a folder of its own."""
        self._made += 1
        return Contender(work, tree, folder=str(self.folder / f"of_{self._made}"), **settings)

    def scans(self, name: str, *shape: Any, **settings: Any) -> str:
        """A folder of synthetic scans."""
        return str(write_scans(self.folder / name, *shape, **settings))


def ratios(numerator: list[float], denominator: list[float], times: float = 1.0) -> list[float]:
    """Round by round."""
    return [times * a / b for a, b in zip(numerator, denominator, strict=True)]


def told(values: list[float], unit: str) -> str:
    """A median with its unit."""
    median = statistics.median(values)
    return f"{median:.0f} {unit}" if median >= 100 else f"{median:.3g} {unit}"


# version 0.1 took 1.39 times the authors' 2.36 s, 0.97 of their 3,512 MB, and made 1.75 times their 71 pairs a second
AUTHORS = {"step": 3.29 / 2.36, "memory": 3390 / 3512, "pairs": 124 / 71}


def step(bench: Bench) -> Iterator[Figure]:
    """The published recipe's step, ResNet-50, K = 60,000, batch 2."""
    settings = {"names": ["train"], "data": bench.scans("scans"), "batch_size": 2}
    old_tree = version_01(bench.folder / "version_01")
    sides = {
        "float32": bench.contender("recipes:step", **settings),
        "bf16": bench.contender("recipes:step", amp=True, **settings),
        "0.1": bench.contender("recipes:step", old_tree, **settings),
    }
    seen = by_turns(sides, 9)
    old, goals = seen.pop("0.1"), {"float32": (0.80, 0.88), "bf16": (0.52, 0.60)}
    for name, now in seen.items():
        values = ratios(now["cpu"], old["cpu"], AUTHORS["step"])
        beside = f"{told(now['cpu'], 's')}; 0.1: {told(old['cpu'], 's')}"
        yield Figure(f"step, published size, {name}, over the authors'", values, *goals[name], beside)
        values = ratios(now["peak_mb"], old["peak_mb"], AUTHORS["memory"])
        beside = f"{told(now['peak_mb'], 'MB')}; 0.1: {told(old['peak_mb'], 'MB')}"
        yield Figure(f"its peak memory, {name}, over the authors'", values, 0.75, 0.85, beside)


def pairs(bench: Bench) -> Iterator[Figure]:
    """Pairs of views of 96 x 96 x 16 a second, reading and collate included, on files that memory holds."""
    now, old = bench.against_01("recipes:pairs", 15, data=bench.scans("scans", (400, 400, 120), count=2))
    values = ratios(old["cpu"], now["cpu"], AUTHORS["pairs"])
    rates = [told([16 / cpu for cpu in side["cpu"]], "a second") for side in (now, old)]
    beside = f"{rates[0]}; 0.1: {rates[1]}"
    yield Figure("pairs of views over the authors'", values, 4, 2.5, beside, least_is_best=False)


def contexts(bench: Bench) -> Iterator[Figure]:
    """A context of a volume of 400 x 400 x 120, read from a disk."""
    now, old = bench.against_01("recipes:contexts", 31, data=bench.scans("scans", (400, 400, 120), count=2))
    yield Figure("a cold context, ms", now["ms"], 5, 10, f"0.1: {told(old['ms'], 'ms')}")
    yield Figure("a cold context, MB read", now["mb"], 3, 5, f"0.1: {told(old['mb'], 'MB')}")


def caching(bench: Bench) -> Iterator[Figure]:
    """One CT of 512 x 512 x 80, 0.8 x 0.8 x 2.5 mm, to 1 mm."""
    data = bench.scans("scans", (512, 512, 80), (0.8, 0.8, 2.5), count=1)
    now, old = bench.against_01("recipes:caching", 5, data=data)
    yield Figure("caching a CT, s", now["cpu"], 1.2, 1.6, f"0.1: {told(old['cpu'], 's')}")
    peaks = ([mb / 1000 for mb in side["peak_mb"]] for side in (now, old))
    yield Figure("caching a CT, peak GB", next(peaks), 0.6, 1, f"0.1: {told(next(peaks), 'GB')}")
    yield Figure("caching a CT, MB on disk", now["mb"], 45, 60, f"0.1: {told(old['mb'], 'MB')}")


def inference(bench: Bench) -> Iterator[Figure]:
    """A scan of 512 x 512 x 300, half of it air, three classes, against MONAI's stock sliding window."""
    data = bench.scans("scans", (512, 512, 300), (0.8, 0.8, 1.0), count=1, body=0.5)
    settings = {"data": data, "classes": 3}
    sides = {name: bench.contender(f"segmenting:{name}", **settings) for name in ("ours", "stock")}
    seen = by_turns(sides, 1, warmups=0)  # of minutes each
    values = ratios(seen["ours"]["cpu"], seen["stock"]["cpu"])
    beside = f"{told(seen['ours']['cpu'], 's')}; stock: {told(seen['stock']['cpu'], 's')}"
    yield Figure("inference, half air, over MONAI's stock window", values, 0.4, 0.6, beside)


def memory(bench: Bench) -> Iterator[Figure]:
    """The most memory that segmenting takes, by classes."""
    data = bench.scans("scans", (512, 512, 300), (0.8, 0.8, 1.0), count=1, body=0.5)
    for classes, goal, least in zip(CLASSES, (2, 3, 8), (4, 6, 16), strict=True):
        yield _segmented(bench, f"its memory, {classes} classes, GB", data, classes, goal, least)


def large(bench: Bench) -> Iterator[Figure]:
    """The same of a scan of 512 x 512 x 600 with a hundred classes."""
    data = bench.scans("scans", (512, 512, 600), (0.8, 0.8, 1.0), count=1, body=0.5)
    yield _segmented(bench, "512 x 512 x 600, 100 classes, GB", data, 100, 16, 16)


def _segmented(bench: Bench, what: str, data: str, classes: int, goal: float, least: float) -> Figure:
    settings = {"data": data, "classes": classes, "overlap": 0.25}  # fewer windows take no less memory
    seen = by_turns({"ours": bench.contender("segmenting:ours", **settings)}, 1, warmups=0)["ours"]
    gigabytes = [mb / 1000 for mb in seen["peak_mb"]]
    return Figure(what, gigabytes, goal, least, told(seen["cpu"], "s"))


def small(bench: Bench) -> Iterator[Figure]:
    """A step of small.yaml, batch 8."""
    settings = {"names": ["train", "small"], "data": bench.scans("scans", (36, 50, 36), count=16), "batch_size": 8}
    old_tree = version_01(bench.folder / "version_01")
    sides = {
        "float32": bench.contender("recipes:step", **settings),
        "bf16": bench.contender("recipes:step", amp=True, **settings),
        "0.1": bench.contender("recipes:step", old_tree, **settings),
    }
    seen = by_turns(sides, 31, warmups=3)
    old = seen.pop("0.1")["cpu"]
    for name, now in seen.items():
        # of a machine on which version 0.1 takes what it took when the goals were set
        beside = f"{told(now['cpu'], 's')}; 0.1: {told(old, 's')}"
        yield Figure(f"step of small.yaml, {name}, ms", ratios(now["cpu"], old, 476), 240, 300, beside)


def start(bench: Bench) -> Iterator[Figure]:
    """What a second process adds where 10,600 volumes are cached."""
    data = str(write_tiny(bench.folder / "volumes", COUNTS[-1]))
    now, old = bench.against_01("recipes:start", 3, data=data, ranks=2)
    beside = f"rank 0: {told(now['first'], 's')}; 0.1: {told(old['further'], 's')}"
    yield Figure("start of 10,600 cached volumes, each further rank, CPU s", now["further"], 0.3, 1, beside)


def growth(bench: Bench) -> Iterator[Figure]:
    """Tiny volumes, more and more of them: the first start, which caches them, and the next."""
    for count in COUNTS:
        data = write_tiny(bench.folder / f"volumes_{count}", count)
        contender = bench.contender("recipes:start", data=str(data), ranks=1)
        first, again = contender(), contender()
        contender.end()
        inodes = sum(1 for _ in (bench.folder / f"of_{bench._made}").rglob("*"))
        beside = f"first {first['first']:.3g} s, {inodes} inodes, {again['peak']:.0f} MB"
        yield Figure(f"start of {count} volumes, CPU s", [again["first"]], beside=beside)


ROWS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    row.__name__: row for row in (step, pairs, contexts, caching, inference, memory, large, small, start, growth)
}


def measured(name: str) -> list[dict[str, Any]]:
    """The figures of a row, as JSON holds them."""
    with tempfile.TemporaryDirectory() as folder:
        figures = list(ROWS[name](Bench(Path(folder))))
    found = []
    for figure in figures:
        median = statistics.median(figure.values)
        sign = 1 if figure.least_is_best else -1
        kept = None if figure.at_least is None else sign * median <= sign * figure.at_least
        own = {"median": median, "min": min(figure.values), "max": max(figure.values), "kept": kept}
        found.append(figure._asdict() | own)
    return found


def table(rows: dict[str, Any]) -> str:
    """The table of all rows, in Markdown."""
    lines = ["| what | measured | goal | at least | |", "|---|---:|---:|---:|---|"]
    for figure in (figure for name in ROWS if name in rows for figure in rows[name]["figures"]):
        value = f"{figure['median']:.3g}"
        if len(figure["values"]) > 1:
            value += f" ({figure['min']:.3g}-{figure['max']:.3g})"
        goal, least = (f"{figure[key]:g}" if figure[key] is not None else "" for key in ("goal", "at_least"))
        lines.append(
            f"| {figure['what']} | {value} | {goal} | {least}{' **missed**' * (figure['kept'] is False)} "
            f"| {figure['beside']} |"
        )
    return "\n".join(lines)


def main(names: list[str]) -> int:
    """Measure rows, write them down, print the table."""
    for name in names:
        began = time.monotonic()
        figures = measured(name)
        revision = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        circumstances = {
            "date": datetime.date.today().isoformat(),
            "commit": revision.stdout.strip(),
            "processor": _processor(),
            "threads": 1,
            "torch": torch.__version__,
            "seconds": round(time.monotonic() - began),
        }
        rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        rows[name] = {"about": (ROWS[name].__doc__ or "").strip(), **circumstances, "figures": figures}
        RESULTS.write_text(json.dumps({each: rows[each] for each in ROWS if each in rows}, indent=1) + "\n")
        print(table({name: rows[name]}), flush=True)
    print(table(json.loads(RESULTS.read_text())))
    return 0


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16") if any(name in line.split() for line in lines)]
    return f"{model}, {', '.join(wide)}"
