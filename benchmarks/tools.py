"""What the tools around a training cost: importing the package, packing a bundle, the page of 50 evaluated cases.

Each is a process of its own and is counted in its CPU seconds, start of Python included. The page is that of 50
generated volumes, segmented by the fine-tuning bundle's small network with random weights.

    python -m benchmarks.tools [ROUNDS]
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.pairs import ratios, report, row, time_in_turn, verdict
from benchmarks.segmenting import CONFIGS, write_model
from desd_tools.studies.phantom import phantom

ROOT = Path(__file__).parents[1]
CASES = 50


def process(*arguments: str) -> None:
    """Run Python with these arguments, from the root of the project."""
    done = subprocess.run([sys.executable, "-W", "ignore", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(arguments)} failed:\n{done.stderr}")


def children_seconds() -> float:
    """CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def evaluate(folder: Path) -> Path:
    """Write volumes and a model, and evaluate it on all of them; the run's folder."""
    phantom.write_family(folder / "volumes", CASES, 0, size=48)
    preprocessing = {"orientation": "RAS", "spacing": [1.5, 1.5, 1.5], "intensity": "zscore", "hu_window": None}
    write_model(folder / "model.pt", phantom.CLASS_NAMES, preprocessing)
    configs = [str(CONFIGS / name) for name in ("train.yaml", "small.yaml", "evaluate.yaml")]
    given = {"dataset_dir": "volumes", "checkpoint": "model.pt", "output_dir": "run", "cache_dir": "cache"}
    paths = [word for key, value in given.items() for word in (f"--{key}", str(folder / value))]
    process("-m", "monai.bundle", "run", "--config_file", str(configs), *paths, "--section", "all", "--page", "False")
    return folder / "run"


def main(rounds: int = 5) -> None:
    """Measure, print and write the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = evaluate(folder)
        seconds = time_in_turn(
            {
                "torch and monai": lambda: process("-c", "import torch, monai"),
                "the package": lambda: process("-c", "import torch, monai, desd_components"),
                **{
                    f"pack {bundle}": lambda bundle=bundle: process(
                        *("-m", "desd_tools", "pack", f"bundles/{bundle}", "--output", str(folder / "dist"))
                    )
                    for bundle in ("desd_pretrain", "desd_seg_finetune")
                },
                "page": lambda: process("-m", "desd_tools", "report", str(run)),
            },
            rounds,
            warmups=1,
            clock=children_seconds,
        )
        megabytes = (run / "report.html").stat().st_size / 1e6
    imports = ratios(seconds["the package"], seconds["torch and monai"])
    lines = [
        verdict("importing torch, monai and the package / without it", imports, at_most=1.5),
        *(row(what, values, "CPU s") for what, values in seconds.items()),
        f"page of {CASES} cases: {megabytes:.1f} MB",
    ]
    report("tools", lines, {"seconds": seconds, "cases": CASES, "page_megabytes": megabytes})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
