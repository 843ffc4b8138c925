"""The figures of a run: ``history.jsonl``, and TensorBoard as a view of it.

A state of the run says how many lines the file had then. A run that goes on drops what came after, for it will write
that again, and draws TensorBoard's curves anew from what is left: what a killed process had not flushed is not missing
there, and what is repeated is not drawn twice.
"""

import functools
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.trainer import Trainer
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys

from ..base.errors import require_whole
from ..base.files import json_text, told_if_unwritable, write_atomically

logger = logging.getLogger(__name__)


PLACE = ("epoch", "seconds", "step", "iteration")  # of a record: where in the run it was written


class HistoryFile:
    """The records of a run, one JSON object a line, and how long it has worked; see `history_file`.

    Args:
        folder: the run's.

    Attributes:
        count: of the records. A state asks for it whenever it is saved, so the file is not read for it.
        step: of the last record of a trainer.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.jsonl"
        self.count = len(self._lines())
        self.step: float = 0
        self._started = time.monotonic()  # when the run would have started had it never stopped

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines() if self.path.is_file() else []

    def begin(self, kept: int) -> list[dict[str, Any]]:
        """Start or go on with the first `kept` records, and drop later ones; those that are left.

        What cannot be read of them is lost, and that is said: no figure of the past is needed to go on.
        """
        found = self._lines()
        lines = list(itertools.takewhile(_is_record, found[:kept]))
        if lines != found:
            write_atomically(self.path, b"".join(line + b"\n" for line in lines))
        if len(lines) < kept:
            logger.warning(
                "%s: %d of the %d records that the run had written are not there or damaged, so its curves have a gap.",
                self.path, kept - len(lines), kept,
            )  # fmt: skip
        records = [json.loads(line) for line in lines]
        worked = max((record["seconds"] for record in records), default=0.0)
        self._started = time.monotonic() - worked  # whatever lay between the processes does not count
        self.count, self.step = len(lines), max((record.get("step", 0) for record in records), default=0)
        return records

    def flush(self) -> None:
        """Wait until the disk has all records: a state that counts them must not outlive them."""
        if self.path.is_file():
            with told_if_unwritable(self.path), open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def seconds(self) -> float:
        """How long the run has worked."""
        return time.monotonic() - self._started

    def append(self, epoch: int, values: Mapping[str, float]) -> dict[str, Any]:
        """Write a record, which is handed back. One of an evaluation has the step of the trainer's last one.

        Raises:
            UserError: when the disk is full or fails.
        """
        record = {"epoch": epoch, "seconds": round(self.seconds(), 2), "step": self.step, **values}
        with told_if_unwritable(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a") as file:
                file.write(json_text(record) + "\n")
        self.count, self.step = self.count + 1, record["step"]
        return record


def _is_record(line: bytes) -> bool:
    """Whether a line is whole: after a power cut the last ones may be cut short, or nothing but zeros."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


@functools.cache
def history_file(folder: Path) -> HistoryFile:
    """The one of a folder: trainer and evaluator write to the same."""
    return HistoryFile(folder)


class RunRecordHandler:
    """Write a run's figures to ``history.jsonl`` and to TensorBoard.

    On a trainer: loss and the scalars of all sources, every `interval` iterations and at the end of an epoch. On an
    evaluator: its metrics, ``val_`` before each name, at the end of an evaluation. Only the first process writes.
    The trainer's is part of the run's state: without being restored, a run starts the file anew. A trainer that is run
    again, as in federated rounds, adds to it.

    Args:
        output_dir: the run's folder.
        sources: with `scalars()`, name -> value, to be recorded; one that gives "step" sets the step of the record.
        interval: iterations between two records of a trainer.
    """

    def __init__(self, output_dir: str | Path, sources: Sequence[Any] = (), interval: int = 10) -> None:
        require_whole(1, record_interval=interval)
        self.output_dir, self.sources, self.interval = Path(output_dir), sources, interval
        self._writer: Any = None
        self._restored: int | None = None  # records of the state that the run goes on from

    @property
    def _file(self) -> HistoryFile:
        return history_file(self.output_dir)

    def attach(self, engine: Workflow) -> None:
        """Record a trainer or an evaluator."""
        if idist.get_rank() != 0:
            return
        if isinstance(engine, Trainer):
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._record_step)
        else:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._record_metrics)
        engine.add_event_handler(Events.COMPLETED, lambda: self._close())

    def state_dict(self) -> dict[str, int]:
        """How many records there are, those of evaluations among them."""
        self._file.flush()
        return {"records": self._file.count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Keep the records of `state`, and drop later ones when the run starts."""
        self._restored = state["records"]

    def _start(self, engine: Workflow) -> None:
        if self._restored is None and engine.state.iteration > 0:  # it has run before
            return
        records = self._file.begin(self._restored or 0)
        self._restored = None
        for old in (self.output_dir / "tensorboard").glob("events.out.tfevents.*"):
            old.unlink()
        for record in records:
            self._draw(record)

    def _record_step(self, engine: Workflow) -> None:
        iteration, length = engine.state.iteration, engine.state.epoch_length
        if iteration % self.interval and iteration % length and iteration != 1:
            return
        values = {"step": iteration, "iteration": iteration, "loss": engine.state.output[CommonKeys.LOSS].item()}
        for source in self.sources:
            values |= source.scalars()
        self._draw(self._file.append(engine.state.epoch, values))

    def _record_metrics(self, engine: Workflow) -> None:
        metrics = {f"val_{name}": float(value) for name, value in engine.state.metrics.items()}
        self._draw(self._file.append(engine.state.epoch, metrics))

    def _draw(self, record: Mapping[str, Any]) -> None:
        """Give TensorBoard the figures of a record, at the time when they were written."""
        moment = time.time() - self._file.seconds() + record["seconds"]
        for name, value in record.items():
            if name not in PLACE:
                figure = math.nan if value is None else value
                self._tensorboard().add_scalar(name, figure, record.get("step", 0), moment)

    def _tensorboard(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # late: TensorBoard takes a second to import

            self._writer = SummaryWriter(str(self.output_dir / "tensorboard"))
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
