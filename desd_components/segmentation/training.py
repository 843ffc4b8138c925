"""Fine-tuning: what is trained how fast, on which scans, and until when.

Source: Ye et al., "DeSD", MICCAI 2022, fine-tune the whole network; the other presets (an encoder that waits for the
decoder, a learning rate that falls with depth) are common practice and ours to offer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.engines import Evaluator
from monai.handlers import stopping_fn_from_metric

from ..base.encoders import shape_table
from ..base.errors import UserError, require_one_of
from ..scans.labelled import LabelledData
from ..scans.names import Scan
from .network import SegmentationNetwork

logger = logging.getLogger(__name__)

PRESETS = ("whole", "encoder_warmup", "layerwise_decay")
SPLIT_FILE = "split.json"


def parameter_groups(
    network: SegmentationNetwork,
    preset: str = "whole",
    frozen_steps: int = 0,
    decay: float = 0.75,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser; `LearningRateHandler` reads their "lr_scale" and "frozen_steps", and `Muon`
    their "muon", which is False for the heads that give logits.

    Args:
        network: the network to fine-tune.
        preset: "whole": one learning rate for all; "encoder_warmup": the encoder rests for the first `frozen_steps`
            optimiser steps, while the random decoder settles; "layerwise_decay": the decoder learns at the full rate,
            the deepest stage at `decay` times that, the next at `decay` squared, and so on down to the stem.
        frozen_steps: used by "encoder_warmup".
        decay: used by "layerwise_decay", above 0 and at most 1.
        weight_decay: of kernels; biases and the affine parameters of norms get none.

    Raises:
        UserError: when the preset is unknown or `decay` is out of range.
    """
    require_one_of(PRESETS, preset=preset)
    if not 0 < decay <= 1:
        raise UserError(f"layer_decay={decay}: give a factor above 0 and at most 1.")
    encoder = network.encoder
    heads = [parameter for part in (network.head, network.deep_heads) for parameter in part.parameters()]
    stages = [(f"stage_{n}", list(stage.parameters())) for n, stage in enumerate(encoder.stage_modules, start=1)]
    taught = {id(parameter) for _, parameters in stages for parameter in parameters}
    stem = [parameter for parameter in encoder.parameters() if id(parameter) not in taught]
    decoder = list(network.decoder.parameters())
    groups = []
    for depth, (name, parameters) in enumerate(
        [("heads", heads), ("decoder", decoder), *reversed(stages), ("stem", stem)], start=-1
    ):
        settings = {
            "lr_scale": decay ** max(depth, 0) if preset == "layerwise_decay" else 1.0,
            "frozen_steps": frozen_steps if preset == "encoder_warmup" and depth > 0 else 0,
            "muon": name != "heads",
        }
        kernels, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        groups.append({"name": name, "params": kernels, "weight_decay": weight_decay, **settings})
        if vectors:
            groups.append({"name": f"{name}_vectors", "params": vectors, "weight_decay": 0.0, **settings})
    return groups


def announce_training(
    network: SegmentationNetwork, window: Sequence[int], class_names: Sequence[str], total_steps: int
) -> None:
    """Log what is about to be trained: classes, maps, parameters, steps."""
    million = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    logger.info("classes: %s", ", ".join(f"{value} {name}" for value, name in enumerate(class_names)))
    logger.info("encoder:\n%s", shape_table(network.encoder, window))
    logger.info("%.2f M parameters, %d optimiser steps", million, total_steps)


def write_split(data: LabelledData, output_dir: str | Path) -> None:
    """Write who trains, validates and tests to ``split.json`` in the run's folder, in the first process."""
    if idist.get_rank() == 0:
        data.write_split(Path(output_dir) / SPLIT_FILE)


def split_of(checkpoint: str | Path) -> str | None:
    """The split that the run of `checkpoint` wrote beside it, so that an evaluation never draws another one."""
    path = Path(checkpoint).parent / SPLIT_FILE
    return str(path) if path.is_file() else None


def section_of(data: LabelledData, section: str) -> list[Scan]:
    """The scans of one section, or of "all".

    Raises:
        UserError: when the section does not exist or is empty.
    """
    everything = [scan for part in data.sections.values() for scan in part]
    scans = everything if section == "all" else data.sections.get(section, [])
    if not scans:
        there = ", ".join(f"{name} ({len(part)})" for name, part in data.sections.items())
        raise UserError(
            f"section={section!r}: no labelled scan there; there are {there}. Name the cases with --data_split FILE."
        )
    return scans


class EarlyStop(EarlyStopping):
    """Stop the trainer when the validator's mean Dice has not risen for `patience` validations.

    MONAI's `EarlyStopHandler` belongs to the validator and holds the trainer, which holds the validator: a circle that
    a config cannot write. This one is attached to the trainer and closes the circle then; a run that it has stopped
    stays stopped when it is started again.
    """

    def __init__(self, validator: Evaluator, patience: int) -> None:
        super().__init__(patience, stopping_fn_from_metric("mean_dice"), trainer=validator)
        self.validator = validator

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Let the validator stop the trainer `engine`."""
        self.trainer = engine
        # at the very end of a validation: the metrics are computed when its only epoch ends
        self.validator.add_event_handler(Events.COMPLETED, self)
        engine.add_event_handler(Events.STARTED, self._stay_stopped)

    def _stay_stopped(self, engine: Engine) -> None:
        if self.counter >= self.patience:
            logger.info("Stopped early before, after %d validations without a better mean_dice.", self.patience)
            engine.terminate()
