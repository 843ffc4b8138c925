"""The work of contenders that segment scans: the bundle desd_seg_finetune, and a script of MONAI's stock parts.

Both run the same network (the fine-tuning bundle's small one, random weights) on a grid of 1.5 mm, with the same
windows, and write labels on the scans' own grids. Intensities are those of a soft-tissue window, below which air is one
value, so that the bundle skips it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai import transforms
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, decollate_batch
from monai.inferers import sliding_window_inference

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
from desd_tools.pack.packed_configs import PLAN, without

CONFIGS = Path(__file__).parents[1] / "bundles" / "desd_seg_finetune" / "configs"
WINDOW, SPACING = [-200.0, 300.0], [1.5, 1.5, 1.5]


def write_model(path: Path, classes: Sequence[str], preprocessing: Mapping[str, Any]) -> Path:
    """A model as a fine-tuning run of the small recipe leaves it, of random weights; its path."""
    files = [str(CONFIGS / name) for name in ("train.yaml", "small.yaml")]
    config = without(ConfigParser.load_config_files(files), set(PLAN))
    torch.manual_seed(0)
    encoder = ResNet3DEncoder(**config["network_def"]["encoder"]["scratch_architecture"])
    network = SegmentationNetwork(encoder, len(classes), config["network_def"]["decoder_width"])
    manifest = segmentation_manifest(network, classes, "softmax", False, preprocessing, config["roi_size"])
    save_weights(network, path, manifest)
    return path


def window_model(folder: Path, classes: int) -> Path:
    """One for that many classes and a soft-tissue window, in a new folder, to be timed on one thread in silence."""
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    folder.mkdir()
    names = ["background", *(f"class {number}" for number in range(1, classes))]
    preprocessing = {"orientation": "RAS", "spacing": SPACING, "intensity": "hu", "hu_window": WINDOW}
    return write_model(folder / "model.pt", names, preprocessing)


def ours(data: str, folder: str, classes: int, **settings: Any) -> Callable[[], None]:
    """The bundle's own inference, ready to run."""
    model = window_model(Path(folder), classes)
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.yaml")
    places = {"dataset_dir": data, "checkpoint": str(model), "output_dir": f"{folder}/labels", "device": "cpu"}
    parser.update(places | settings)
    parser.get_parsed_content("initialize")
    run = parser.get_parsed_content("evaluator").run
    load_weights(parser.get_parsed_content("network_def"), model)
    return lambda: _written(run, folder)


def stock(data: str, folder: str, classes: int) -> Callable[[], None]:
    """What a competent script with MONAI's stock parts does, at the bundle's settings."""
    model = window_model(Path(folder), classes)
    manifest = model_manifest(model)
    network = network_from_manifest(manifest).eval()
    load_weights(network, model)
    preprocessing = transforms.Compose(
        [
            transforms.LoadImaged("image", ensure_channel_first=True),
            transforms.Orientationd("image", axcodes="RAS", labels=None),
            transforms.Spacingd("image", pixdim=SPACING, mode="bilinear"),
            transforms.ScaleIntensityRanged("image", *WINDOW, -1, 1, clip=True),
        ]
    )
    postprocessing = transforms.Compose(
        [
            transforms.Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False),
            transforms.AsDiscreted("pred", argmax=True),
            transforms.SaveImaged(
                "pred", output_dir=f"{folder}/labels", output_postfix="", separate_folder=False, print_log=False
            ),
        ]
    )
    loader = DataLoader(Dataset(find_scans(data), preprocessing), batch_size=1)

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

    return lambda: _written(run, folder)


def _written(run: Callable[[], None], folder: str) -> None:
    run()
    assert list(Path(folder, "labels").rglob("*.nii.gz"))
