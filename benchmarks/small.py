"""Where a step of the small recipes goes: pre-training's over its bare passes, and fine-tuning's piece by piece.

Both are built from the bundles' own configs, on synthetic volumes of the hippocampus' size, and stepped by their own
trainers. Pre-training: the whole step (loss with its terms, teacher's EMA, monitor) in turn with the passes of both
halves and the same optimiser alone, whose backward pass starts from given gradients. Every tenth step the monitor
looks; that look is part of the steps. Times are processor seconds on one thread.

    python -m benchmarks.small [STEPS]
"""

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedTrainer

from benchmarks.pairs import report, row, time_in_turn, verdict
from desd_components.base.files import write_json

BUNDLES = Path(__file__).parents[1] / "bundles"
CASES, SHAPE, LABELLED = 16, (36, 50, 35), 8
CLASSES = ["front", "back"]


def write_volumes(folder: Path) -> None:
    """Labelled volumes in the Decathlon's layout."""
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in range(CASES):
        image, label = rng.normal(0, 1, SHAPE).astype(np.float32), np.zeros(SHAPE, np.uint8)
        label[10:20, 12:30, 8:20] = 1
        label[20:26, 12:30, 8:20] = 2
        image += 2 * label
        for part, volume in (("imagesTr", image), ("labelsTr", label)):
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / part / f"case_{case:02d}.nii.gz")
    write_json(folder / "splits.json", {"train": [f"case_{case:02d}" for case in range(CASES)]})


def workflow(bundle: str, data: Path, output: Path, **settings: Any) -> ConfigWorkflow:
    """A bundle's small recipe, ready to run."""
    configs = [str(BUNDLES / bundle / "configs" / f"{name}.yaml") for name in ("train", "small")]
    places = {
        "dataset_dir": str(data),
        "output_dir": str(output / bundle),
        "cache_dir": str(output / "cache"),
        "plan": None,
    }
    made = ConfigWorkflow(configs, run_id="training", bundle_root=str(BUNDLES / bundle), **places, **settings)
    made.initialize()
    return made


class GivenGradient:
    """In the loss's place: the gradients with respect to all that the network puts out are given."""

    def __call__(self, output: Any, target: None = None) -> torch.Tensor:
        parts = [output.student_logits, output.dense.student_logits, *output.pooled]
        return torch.stack([part.mean() for part in parts]).sum()


def stepping(trainer: SupervisedTrainer) -> Callable[[], None]:
    """A call that makes one step of `trainer`."""
    trainer.interrupt_resume_enabled = True
    trainer.add_event_handler(Events.ITERATION_COMPLETED, trainer.interrupt)
    return trainer.run


def whole_step(data: Path, output: Path, batch: Any) -> Callable[[], None]:
    """The recipe's own step: its network, loss, optimiser, teacher, monitor; the views are given."""
    parser = workflow("desd_pretrain", data, output).parser
    trainer = bare_trainer(parser, batch, parser.get_parsed_content("train#trainer#loss_function"))
    for name in ("learning_rate_handler", "teacher_handler", "monitor"):
        parser.get_parsed_content(name).attach(trainer)
    return stepping(trainer)


def bare_trainer(parser: Any, batch: Any, loss: Callable[..., torch.Tensor]) -> SupervisedTrainer:
    """A trainer of the recipe's network and optimiser, with nothing attached."""
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{}] * 10_000,
        network=parser.get_parsed_content("network"),
        optimizer=parser.get_parsed_content("optimizer"),
        loss_function=loss,
        prepare_batch=lambda *_, **__: batch,
        optim_set_to_none=True,
        decollate=False,
    )


def views_of(parser: Any) -> Callable[[], Any]:
    """A call that makes the views of one batch, with their points."""
    prepare, contexts = parser.get_parsed_content("train#trainer#prepare_batch"), next(iter(_loader(parser)))
    return lambda: prepare(contexts)


def _loader(parser: Any) -> Any:
    loader = parser.get_parsed_content("train#dataloader")
    loader.sampler.set_epoch(1)
    return loader


def pretraining(data: Path, output: Path, steps: int) -> tuple[list[str], dict[str, Any]]:
    """Rows and figures of the pre-training step."""
    views = views_of(workflow("desd_pretrain", data, output).parser)
    batch = views()
    passes = workflow("desd_pretrain", data, output).parser
    contenders = {
        "whole": whole_step(data, output, batch),
        "passes": stepping(bare_trainer(passes, batch, GivenGradient())),
        "views": views,
    }
    seconds = time_in_turn(contenders, steps, warmups=3, clock=time.process_time)
    # in means, for a look of the monitor falls on every tenth step
    ratio = [statistics.fmean(seconds["whole"]) / statistics.fmean(seconds["passes"])]
    rows = [
        row("pre-training: whole step without its views", seconds["whole"], "s"),
        row("pre-training: passes of both halves and optimiser", seconds["passes"], "s"),
        verdict("pre-training: whole over passes, mean over mean", ratio, at_most=1.15),
        row("pre-training: beside it, the views of a batch", seconds["views"], "s"),
    ]
    return rows, {"pretraining_seconds": seconds, "ratio": ratio[0], "required_ratio": 1.15}


def finetuning(data: Path, output: Path, steps: int) -> tuple[list[str], dict[str, Any]]:
    """Rows and figures of the pieces of a fine-tuning step."""
    parser = workflow(
        "desd_seg_finetune", data, output, num_labels=LABELLED, val_fraction=0, class_names=CLASSES
    ).parser
    network, loss = parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    optimizer, sampler = parser.get_parsed_content("optimizer"), parser.get_parsed_content("train#dataloader").sampler
    dataset, keys = parser.get_parsed_content("train#dataset"), list(sampler)
    state: dict[str, Any] = {}
    places = iter(keys * 100)

    def load() -> None:
        crops = [_first(dataset[next(places)]) for _ in range(parser.get_parsed_content("batch_size"))]
        state.update({name: torch.stack([crop[name] for crop in crops]).as_tensor() for name in ("image", "label")})

    def encode() -> None:
        network.encoder.stages(state["image"])

    def forward() -> None:
        state["logits"] = network(state["image"])

    def judge() -> None:
        state["loss"] = loss(state["logits"], state["label"])

    def backward() -> None:
        optimizer.zero_grad(set_to_none=True)
        state["loss"].backward()

    pieces: dict[str, Callable[[], Any]] = {
        "crops": load,
        "encoder": encode,
        "forward": forward,
        "loss": judge,
        "backward": backward,
        "optimiser": optimizer.step,
    }
    seconds = time_in_turn(pieces, steps, warmups=3, clock=time.process_time)
    words = {
        "crops": "crops of a batch, augmented",
        "encoder": "forward pass of the encoder alone",
        "forward": "forward pass, encoder and decoder",
        "loss": "loss",
        "backward": "backward pass",
        "optimiser": "optimiser",
    }
    rows = [row(f"fine-tuning: {words[name]}", seconds[name], "s") for name in pieces]
    return rows, {"finetuning_seconds": seconds}


def _first(sample: Any) -> dict[str, torch.Tensor]:
    return sample[0] if isinstance(sample, list) else sample


def main(steps: int = 40) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)  # an engine that is never run to its end says so when it goes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volumes(folder / "data")
        rows, figures = pretraining(folder / "data", folder, steps)
        more_rows, more_figures = finetuning(folder / "data", folder, steps)
    report("small", [*rows, *more_rows], {**figures, **more_figures})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
