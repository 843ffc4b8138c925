"""Make a bundle that stands alone, as the MONAI Model Zoo and its consumers expect it.

Consumers open JSON under fixed names (`bundle.load` reads ``configs/train.json``), so the YAML sources become JSON;
``small.yaml``, which the shipped weights were trained with, is merged into ``train.json``, so that config, weights and
metadata describe one network, and the published recipe lies beside it as ``train_published.json``. The package goes
into the bundle, without its tools, for a bundle sees only its own folder after a download.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..errors import UserError
from ..weights import read_manifest, write_json

logger = logging.getLogger(__name__)

COPIED = ("LICENSE", "docs", "models", "configs/metadata.json", "configs/logging.conf")
PACKAGE = Path(__file__).resolve().parents[1]


def merged(*files: Path) -> dict[str, Any]:
    """The config that `files` make when each is laid over those before."""
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    config = dict(parser.get())
    config.pop("_meta_", None)
    return config


def packed_configs(bundle: Path) -> dict[str, dict[str, Any]]:
    """File name -> config, of the packed bundle."""
    configs = bundle / "configs"
    packed = {"train.json": merged(configs / "train.yaml", configs / "small.yaml")}
    packed["train_published.json"] = merged(configs / "train.yaml")
    packed["inference.json"] = merged(configs / "inference.yaml")
    for overlay in ("evaluate", "multi_gpu_train", "smoke"):  # as they are: their ids have parents in train.json only
        packed[f"{overlay}.json"] = ConfigParser.load_config_file(str(configs / f"{overlay}.yaml"))
    for name in ("train.json", "train_published.json", "inference.json"):
        packed[name]["bundle_root"] = "."
    if "class_names" in packed["train.json"]:  # so that the network of train.json is that of the weights
        classes = read_manifest(bundle / "models" / "model.pt")["class_names"]
        packed["train.json"]["class_names"] = classes[1:]
    return packed


def pack(bundle: str, output: str) -> None:
    """Write the packed form of BUNDLE to OUTPUT/<name>.

    Args:
        bundle: e.g. bundles/desd_pretrain.
        output: a folder; the packed bundle of that name in it is replaced.

    Raises:
        UserError: when a file that a bundle must have is missing.
    """
    source = Path(bundle).resolve()
    missing = [name for name in (*COPIED, "models/model.pt", "docs/README.md") if not (source / name).exists()]
    if missing:
        raise UserError(f"{bundle}: cannot be packed without {', '.join(missing)}. `publish` fills models/.")
    target = Path(output).resolve() / source.name
    shutil.rmtree(target, ignore_errors=True)
    (target / "configs").mkdir(parents=True)
    for name in COPIED:
        part = source / name
        if part.is_dir():
            shutil.copytree(part, target / name)
        else:
            shutil.copyfile(part, target / name)
    for name, config in packed_configs(source).items():
        write_json(target / "configs" / name, config)
    ignored = shutil.ignore_patterns("tools", "__main__.py", "__pycache__")
    shutil.copytree(PACKAGE, target / PACKAGE.name, ignore=ignored)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    logger.info("%s: %.1f MB", target, size / 1e6)
