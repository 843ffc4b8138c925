"""Put a run's weights into a bundle: ``models/`` is read-only for runs, and only this command fills it."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from desd_components.base.errors import UserError
from desd_components.base.files import save_tensors, write_json
from desd_components.base.manifests import load_weights, manifest_path, read_manifest
from desd_components.base.tensors import flat_tensors
from desd_components.distillation.encoder import build_encoder
from desd_components.distillation.weights import load_encoder
from desd_components.segmentation.model import network_from_manifest

logger = logging.getLogger(__name__)


#: what a manifest calls itself -> the file that a run leaves
KINDS = {"encoder": "encoder.pt", "segmentation": "model.pt"}
LABEL_FREE = ("retrieval", "rank")


def run_weights(run: Path) -> Path:
    """The weights that a run's folder holds, or `run` itself when it is a file.

    Raises:
        UserError: when there are none.
    """
    found = [run] if run.is_file() else [run / name for name in KINDS.values() if (run / name).is_file()]
    if len(found) != 1:
        raise UserError(f"{run}: neither a weights file nor a run's folder with one of {sorted(KINDS.values())}.")
    return found[0]


def bundle_kind(bundle: Path) -> str:
    """Which kind of weights a bundle takes: "segmentation" where it names label classes, else "encoder"."""
    channels = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    return "segmentation" if channels["format"] == "segmentation" else "encoder"


def network_of(weights: str | Path) -> nn.Module:
    """The network that the manifest of `weights` describes, with the weights, in evaluation mode.

    Raises:
        UserError: when the weights or their manifest are missing, or do not fit each other.
    """
    manifest = read_manifest(weights)
    if manifest.get("kind") != "segmentation":
        return load_encoder(weights).eval()
    network = network_from_manifest(manifest)
    load_weights(network, weights)
    return network.eval()


def weights_for(bundle: Path, weights: Path) -> dict[str, Any]:
    """The manifest of `weights`, once they are known to load and to be of the kind that `bundle` takes.

    Raises:
        UserError: when they do not, or are not.
    """
    manifest, wanted = read_manifest(weights), bundle_kind(bundle)
    if manifest.get("kind") != wanted:
        raise UserError(f"{weights}: holds weights of kind {manifest.get('kind')!r}, but {bundle} takes {wanted!r}.")
    network_of(weights)
    return manifest


def described(metadata: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """`metadata` with the channels of the network that `manifest` describes."""
    architecture = manifest["architecture"]
    image = metadata["network_data_format"]["inputs"]["image"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    image["num_channels"] = architecture["in_channels"]
    image["channel_def"] = {str(i): f"image_{i}" if i else "image" for i in range(architecture["in_channels"])}
    if manifest["kind"] == "segmentation":
        pred["num_channels"] = len(manifest["class_names"])
        pred["channel_def"] = {str(i): name.lower() for i, name in enumerate(manifest["class_names"])}
    else:
        pred["num_channels"] = build_encoder(**architecture).stage_channels[-1]
    return metadata


def label_free_scores(evaluation: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation found without labels: score -> stage -> trained, untrained, 95 % interval of the difference.

    Args:
        evaluation: ``metrics.json`` of desd_pretrain's evaluate.yaml.
        manifest: of the weights that are to be published.

    Raises:
        UserError: when the file is no such report, or one about other weights.
    """
    try:
        report = json.loads(evaluation.read_text())
        found = {
            score: {
                stage: {name: figures[name] for name in ("trained", "untrained", "interval_95")}
                for stage, figures in report[score].items()
            }
            for score in LABEL_FREE
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{evaluation}: no metrics.json of desd_pretrain's evaluate.yaml. Name one.") from error
    if report.get("manifest") != manifest:
        raise UserError(f"{evaluation}: scores other weights than those to be published. Evaluate these, then publish.")
    return {"volumes": report["volumes"], "interval_covers": report["interval_covers"], **found}


def publish(run: str, bundle: str, evaluation: str = "") -> None:
    """Copy the weights of RUN, with their manifest, to BUNDLE/models/model.pt, and fit BUNDLE's metadata to them.

    Args:
        run: a run's folder, or its encoder.pt or model.pt.
        bundle: e.g. bundles/desd_pretrain.
        evaluation: of an encoder, metrics.json of its evaluation; its label-free scores go into the manifest.

    Raises:
        UserError: when the weights are of the other kind, do not fit their manifest, or are missing.
    """
    source, target = run_weights(Path(run)), Path(bundle)
    if not (target / "configs" / "metadata.json").is_file():
        raise UserError(f"{bundle}: not a bundle, for it has no configs/metadata.json.")
    manifest = weights_for(target, source)
    scores = {"label_free_scores": label_free_scores(Path(evaluation), manifest)} if evaluation else {}
    destination = target / "models" / "model.pt"
    destination.parent.mkdir(exist_ok=True)
    if source.suffix == ".safetensors":
        save_tensors(destination, flat_tensors(source))
    else:
        shutil.copyfile(source, destination)
    write_json(manifest_path(destination), {**manifest, **scores})
    metadata = json.loads((target / "configs" / "metadata.json").read_text())
    write_json(target / "configs" / "metadata.json", described(metadata, manifest))
    logger.info("%s: %.1f MB, from %s", destination, destination.stat().st_size / 1e6, source)
