"""Pre-trainings on noise that take no second: of a few handlers, or of all that a run which can go on has."""

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.handlers import ParamSchedulerHandler
from torch.utils.data import DataLoader

from desd_components import (
    CosineSchedule,
    DeepSelfDistillationLoss,
    DeepSelfDistillationNetwork,
    DistillationMonitor,
    EpochSampler,
    FreezePrototypesHandler,
    LearningRateHandler,
    ResNet3DEncoder,
    ResumeHandler,
    RunRecordHandler,
    TeacherEMAHandler,
    scheduled_epochs,
)


class Run:
    """A tiny pre-training on noise; views are made by `prepare_batch`, as in the bundle."""

    def __init__(self, encoder, batches=4, epochs=2, accumulation_steps=1, rate=0.1, scale=1.0):
        self.network = DeepSelfDistillationNetwork(encoder, 16, head_hidden=16, head_bottleneck=8)
        self.loss = DeepSelfDistillationLoss(16)
        self.optimizer = torch.optim.SGD(self.network.student.parameters(), lr=rate, momentum=0.9, weight_decay=1e-6)
        self.batches = [torch.randn(2, 1, 16, 16, 16) * scale for _ in range(batches)]
        self.settings = {"max_epochs": epochs, "accumulation_steps": accumulation_steps}
        self.settings["prepare_batch"] = lambda batch, *_, **__: ([batch, batch.flip(2)], None)

    def train(self, *handlers):
        self.trainer = SupervisedTrainer(
            device="cpu",
            train_data_loader=self.batches,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=self.loss,
            decollate=False,
            train_handlers=handlers,
            **self.settings,
        )
        self.trainer.run()
        return self


class Draws:
    """Sixteen samples for batches of two; each is a function of the epoch and its index."""

    def __len__(self):
        return 8

    def __getitem__(self, key):
        generator = torch.Generator().manual_seed(1000 * key.epoch + key.index)
        return torch.randn(1, 16, 16, 16, generator=generator)


class Log:
    """What happened, in order: an event, its epoch, its iteration, the teacher's temperature and momentum."""

    def __init__(self, loss):
        self.loss, self.lines = loss, []

    def attach(self, engine):
        for event in (Events.EPOCH_STARTED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
            engine.add_event_handler(event, self, event.name)

    def __call__(self, engine, name):
        self.lines.append((name, engine.state.epoch, engine.state.iteration, self.loss.teacher_temperature))


def pretraining(
    folder,
    epochs,
    stop_after=None,
    resume="auto",
    extend=None,
    minutes=None,
    more=(),
    keyed=False,
    workers=0,
    on_collapse="warn",
    alarmed=lambda monitor: (),
    **others,
):
    """Four iterations an epoch; `keyed` reads them through an `EpochSampler`, `others` are settings.

    `alarmed` makes handlers that come before the monitor.
    """
    torch.manual_seed(0)
    encoder = ResNet3DEncoder(depth=10, width=8, stem_kernel=3, stem_stride=1, stem_pool=False)
    accumulation_steps = others.get("accumulation_steps", 1)
    run = Run(encoder, epochs=stop_after or epochs, accumulation_steps=accumulation_steps)
    if keyed:
        run.batches = DataLoader(Draws(), 2, sampler=EpochSampler(Draws(), 2), num_workers=workers)
    steps = 4 * scheduled_epochs(folder, resume, extend, epochs) // accumulation_steps
    rate = LearningRateHandler(run.optimizer, CosineSchedule(0.1, 0.01, total_steps=steps, warmup_steps=2))
    teacher = TeacherEMAHandler(run.network, CosineSchedule(0.9, 1.0, total_steps=steps))
    monitor = DistillationMonitor(run.network, run.loss, interval=2, buffer=6, on_collapse=on_collapse)
    record = RunRecordHandler(folder, [run.loss, rate, teacher, monitor], interval=2)
    temperature = ParamSchedulerHandler(
        run.loss.set_teacher_temperature,
        "linear",
        {"initial_value": 0.04, "step_constant": 1, "step_max_value": 3, "max_value": 0.07},
        epoch_level=True,
        event=Events.EPOCH_STARTED,
    )
    run.log = Log(run.loss)
    parts = {"network": run.network, "optimizer": run.optimizer, "loss": run.loss, "rate": rate, "teacher": teacher}
    parts |= {"monitor": monitor, "record": record, "absent": None}
    settings = {"max_epochs": scheduled_epochs(folder, resume, extend, epochs), **others}
    state = ResumeHandler(folder, parts, settings, resume, minutes=minutes, extend=extend)
    handlers = (state, temperature, rate, teacher, FreezePrototypesHandler(run.network))
    return run.train(*handlers, *alarmed(monitor), monitor, record, run.log, *more)
