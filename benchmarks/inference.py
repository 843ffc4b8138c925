"""Segmenting new scans: the bundle desd_seg_finetune against a plain script around MONAI's stock sliding window.

Both run the same network (the fine-tuning bundle's small one, random weights) with the same windows over the same
scans, resample them before and after, and write labels on the scans' own grids. Each run is a process of its own, so
that its peak memory is its own; seconds count the scans alone, without the start of Python and the reading of weights.

    python -m benchmarks.inference [ROUNDS]
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai import transforms
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, decollate_batch
from monai.inferers import sliding_window_inference

from benchmarks.pairs import ratios, report, row
from desd_components import (
    ResNet3DEncoder,
    SegmentationNetwork,
    find_scans,
    load_weights,
    model_manifest,
    network_from_manifest,
    save_weights,
    segmentation_manifest,
)
from desd_tools.pack.packed_configs import unplanned

CONFIGS = Path(__file__).parents[1] / "bundles" / "desd_seg_finetune" / "configs"
SCANS, SHAPE, SPACING = 2, (112, 96, 56), (0.9, 0.9, 1.6)
CLASSES = ["background", "organ", "tumour"]


def prepare(folder: Path) -> None:
    """Write the scans and a model, as a fine-tuning run leaves it."""
    rng = np.random.default_rng(0)
    (folder / "scans").mkdir()
    for index in range(SCANS):
        volume = rng.normal(0, 100, SHAPE).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([*SPACING, 1.0])), folder / "scans" / f"scan_{index}.nii.gz")
    config = unplanned(ConfigParser.load_config_files([str(CONFIGS / "train.yaml"), str(CONFIGS / "small.yaml")]))
    torch.manual_seed(0)
    encoder = ResNet3DEncoder(**config["network_def#encoder#scratch_architecture"])
    network = SegmentationNetwork(encoder, len(CLASSES), config["network_def#decoder_width"])
    preprocessing = {"orientation": "RAS", "spacing": [1.0, 1.0, 1.0], "intensity": "zscore", "hu_window": None}
    manifest = segmentation_manifest(network, CLASSES, "softmax", False, preprocessing, config["roi_size"])
    save_weights(network, folder / "model.pt", manifest)


def bundle(folder: Path, output: Path) -> Callable[[], Any]:
    """The bundle's own inference, ready to run."""
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.yaml")
    settings = {"dataset_dir": folder / "scans", "checkpoint": folder / "model.pt", "output_dir": output}
    parser.update({name: str(value) for name, value in settings.items()} | {"device": "$torch.device('cpu')"})
    parser.get_parsed_content("initialize")
    return parser.get_parsed_content("evaluator").run


def stock(folder: Path, output: Path) -> Callable[[], Any]:
    """What a competent script with MONAI's stock parts does, at the bundle's settings."""
    manifest = model_manifest(folder / "model.pt")
    network = network_from_manifest(manifest).eval()
    load_weights(network, folder / "model.pt")
    preprocessing = transforms.Compose(
        [
            transforms.LoadImaged("image", ensure_channel_first=True),
            transforms.Orientationd("image", axcodes="RAS", labels=None),
            transforms.Spacingd("image", pixdim=(1.0, 1.0, 1.0), mode="bilinear"),
            transforms.NormalizeIntensityd("image", channel_wise=True),
        ]
    )
    postprocessing = transforms.Compose(
        [
            transforms.Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False),
            transforms.AsDiscreted("pred", argmax=True),
            transforms.SaveImaged(
                "pred", output_dir=output, output_postfix="", separate_folder=False, resample=False, print_log=False
            ),
        ]
    )
    loader = DataLoader(Dataset(find_scans(folder / "scans"), preprocessing), batch_size=1)

    def run() -> None:
        with torch.no_grad():
            for batch in loader:
                batch["pred"] = sliding_window_inference(
                    batch["image"],
                    manifest["window"],
                    4,
                    network,
                    overlap=0.5,
                    mode="gaussian",
                    padding_mode="replicate",
                )
                for item in decollate_batch(batch):
                    postprocessing(item)

    return run


def megabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def work(name: str, folder: str, output: str) -> None:
    """One process: run one contender and print its figures as the last line."""
    torch.set_num_threads(1)
    run = {"bundle": bundle, "stock": stock}[name](Path(folder), Path(output))
    before, started = megabytes(), time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    written = sorted(path.name for path in Path(output).glob("*.nii.gz"))
    print(json.dumps({"seconds": seconds / SCANS, "start_mb": before, "peak_mb": megabytes(), "written": written}))


def run_worker(name: str, folder: Path, output: Path) -> dict[str, Any]:
    """Start a process for one contender, wait for it, read its figures."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.inference", name, str(folder), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(rounds: int = 3) -> None:
    figures: dict[str, list[dict[str, Any]]] = {"bundle": [], "stock": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        for turn in range(rounds):
            for name, seen in figures.items():
                seen.append(run_worker(name, folder, folder / f"{name}_{turn}"))
                assert len(seen[-1]["written"]) == SCANS, seen[-1]
    of = {name: {key: [run[key] for run in runs] for key in ("seconds", "peak_mb")} for name, runs in figures.items()}
    report(
        "inference",
        [
            row("seconds per scan, bundle", of["bundle"]["seconds"], "s"),
            row("seconds per scan, stock sliding window", of["stock"]["seconds"], "s"),
            row("bundle over stock", ratios(of["bundle"]["seconds"], of["stock"]["seconds"]), "x"),
            row("peak memory, bundle", of["bundle"]["peak_mb"], "MB"),
            row("peak memory, stock sliding window", of["stock"]["peak_mb"], "MB"),
            row("bundle over stock", ratios(of["bundle"]["peak_mb"], of["stock"]["peak_mb"]), "x"),
        ],
        {"runs": figures, "shape": SHAPE, "spacing": SPACING, "scans": SCANS},
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        work(*sys.argv[1:])
    else:
        main(*map(int, sys.argv[1:]))
