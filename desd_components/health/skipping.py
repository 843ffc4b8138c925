"""Steps whose loss or gradient is not finite are left out: the run goes on as if their batches had never been drawn.

By the time a loss turns out to be NaN, its forward pass has already moved running statistics and the loss's center.
These are kept from before the step and put back; the optimiser, and with it everything that follows its steps (teacher,
schedules), never hears of the step. Ours; a `torch.amp.GradScaler` skips overflown gradients too, but restores nothing.

Cost: one copy of the buffers a step, one pass over the gradients, and one wait for the device where the optimiser's
step is due; several processes share one number there. With float16 the scaler waits once more, for its own look.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys
from torch import nn
from torch.optim import Optimizer

from ..base.errors import UserError
from ..base.processes import from_all_processes, sum_over_processes
from ..scans.names import first_few, scan_files

logger = logging.getLogger(__name__)

NAMED_FILES = 8  # of a skipped step, in a message


def batch_files(batch: Any, records: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """The files that a batch was read from, as far as it tells.

    Args:
        batch: of a `ContextDataset`, whose ``volume`` is the position among `records`, or with an image that carries
            its file's name as MONAI's loaders leave it.
        records: what the batch's dataset calls ``data``.
    """
    if not isinstance(batch, Mapping):
        return []
    if "volume" in batch and records:
        images = [records[int(number)]["image"] for number in batch["volume"]]
    else:
        image = batch.get(CommonKeys.IMAGE)
        names = image.meta.get("filename_or_obj", []) if isinstance(image, MetaTensor) else []
        images = [names] if isinstance(names, str) else names
    return [scan_files({"image": image})[0] for image in images]


class StepGate:
    """An optimiser's step that can be left out once, with all of its hooks.

    Args:
        optimizer: its `step` is replaced, as torch's own schedulers do; a gradient scaler calls it all the same.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.shut, self._step = optimizer, False, optimizer.step
        optimizer.step = self._pass  # type: ignore[method-assign]

    def _pass(self, *arguments: Any, **more: Any) -> Any:
        return None if self.shut else self._step(*arguments, **more)


def all_finite(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Whether all values of all tensors are finite, a boolean scalar on their device; the device is not waited for."""
    # the largest magnitude: unlike a norm it cannot overflow, and it passes NaN on
    return torch.isfinite(torch.stack(torch._foreach_norm(list(tensors), ord=torch.inf))).all()


class SkipNonFiniteHandler:
    """Leave out every optimiser step whose loss or gradient is not finite, and stop the run when that is the rule.

    After such a step the modules' buffers, the optimiser, and all that follows the optimiser's steps are as they were
    before it, on every process; under gradient accumulation the step goes with all of its batches. The step is counted,
    and its files are named in the log. ``engine.state.step_skipped`` says so to the other handlers of the iteration.

    In float16 a finite loss whose scaled gradient overflows is how a gradient scaler finds its scale. Such steps are
    left out and counted as well, but stop the run only when the scale has come down to 1 and cannot be the reason.

    Args:
        modules: whose buffers a forward pass moves: the network itself, and a loss with a center.
        max_skipped_steps: so many in a row end the run; 1 ends it at the first.

    Raises:
        UserError: when built, if `max_skipped_steps` is below 1; in a run, at the last of so many steps in a row.
    """

    def __init__(self, modules: Sequence[nn.Module], max_skipped_steps: int = 5) -> None:
        if max_skipped_steps < 1:
            raise UserError(f"max_skipped_steps={max_skipped_steps}: give 1 to stop at the first, or more.")
        self.modules, self.max_skipped_steps = list(modules), max_skipped_steps
        self.skipped = self.in_a_row = 0
        self._gate: StepGate | None = None
        self._kept: list[torch.Tensor] = []  # the modules' buffers before the step
        self._losses: list[torch.Tensor] = []
        self._files: list[list[str]] = []

    def attach(self, engine: Workflow) -> None:
        """Watch the steps of a trainer; the trainer has its optimiser only when it starts."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._before_batch)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._after_backward)

    def _start(self, engine: Workflow) -> None:
        self._losses, self._files = [], []
        optimizer = engine.optimizer  # type: ignore[attr-defined]
        if self._gate is None or self._gate.optimizer is not optimizer:
            self._gate = StepGate(optimizer)

    def _before_batch(self, engine: Workflow) -> None:
        engine.state.step_skipped = False
        if not self._losses:
            self._kept = [buffer.clone() for buffer in self._buffers()]

    def _buffers(self) -> list[torch.Tensor]:
        return [buffer for module in self.modules for buffer in module.buffers()]

    def _after_backward(self, engine: Workflow) -> None:
        assert self._gate is not None
        self._losses.append(engine.state.output[CommonKeys.LOSS].detach())
        records = getattr(getattr(engine.data_loader, "dataset", None), "data", ())
        self._files.append(batch_files(engine.state.batch, records))
        if not ends_step(engine):
            return
        self._gate.shut = engine.state.step_skipped = not self._is_finite(engine.optimizer)  # type: ignore[attr-defined]
        if engine.state.step_skipped:
            for buffer, kept in zip(self._buffers(), self._kept, strict=True):
                buffer.copy_(kept)
            self._report(engine)
        else:
            self.in_a_row = 0
        self._losses, self._files = [], []

    def _is_finite(self, optimizer: Optimizer) -> bool:
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        finite = all_finite([*self._losses, *(p.grad for p in parameters if p.grad is not None)])
        # gradients are shared already, but each process knows its own loss alone
        return bool(sum_over_processes((~finite).float()) == 0)

    def _report(self, engine: Workflow) -> None:
        bad, files = self._to_blame()
        self.skipped += 1
        where = f"Epoch {engine.state.epoch}, iteration {engine.state.iteration}"
        scale = gradient_scale(engine)
        if not bad and scale > 1:
            logger.info("%s: the gradient overflowed at a scale of %g; the step was left out.", where, scale)
            return
        self.in_a_row += 1
        named = first_few(files, NAMED_FILES) or "files that the batch does not name"
        what = f"{where}: the {bad or 'gradient'} is not finite, of a step from {named}."
        if self.in_a_row >= self.max_skipped_steps:
            raise UserError(
                f"{what} That is number {self.in_a_row} in a row. Look at these files; if they are sound, lower the "
                "learning rate, or set amp: false. Nothing was changed; the run can go on from its last state."
            )
        logger.warning("%s It was left out; number %d of this run.", what, self.skipped)

    def _to_blame(self) -> tuple[str, list[str]]:
        """ "loss" where one is not finite, else nothing; and the files of those batches, else of all of the step."""
        finite = torch.isfinite(torch.stack(self._losses)).tolist()
        bad = [name for files, is_finite in zip(self._files, finite, strict=True) if not is_finite for name in files]
        findings = from_all_processes([(all(finite), bad, [name for files in self._files for name in files])])
        is_loss = not all(fine for fine, _, _ in findings)
        names = [name for _, bad, all_of_them in findings for name in (bad if is_loss else all_of_them)]
        return "loss" if is_loss else "", list(dict.fromkeys(names))

    def scalars(self) -> dict[str, float]:
        """How many steps were left out so far."""
        return {"skipped_steps": self.skipped}

    def state_dict(self) -> dict[str, int]:
        """Steps left out so far, and how many of them in a row lately."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on counting from `state`."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


def ends_step(engine: Workflow) -> bool:
    """Whether the optimiser's step follows this batch, as MONAI's trainer decides it."""
    accumulated, length = getattr(engine, "accumulation_steps", 1), engine.state.epoch_length
    seen = (engine.state.iteration - 1) % length + 1 if length else engine.state.iteration
    return seen % accumulated == 0 or seen == length


def gradient_scale(engine: Workflow) -> float:
    """What a gradient scaler, where the trainer has one, multiplies gradients by."""
    scaler = getattr(engine, "scaler", None)
    return 1.0 if scaler is None else scaler.get_scale()
