"""Ten steps of a pre-training, in figures: what is computed changes on purpose or not at all."""

from dataclasses import dataclass, field

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from desd_components import (
    CodingRateTerm,
    CosineSchedule,
    DeepSelfDistillationLoss,
    DeepSelfDistillationNetwork,
    DenseDistillationLoss,
    DenseDistillationNetwork,
    FreezePrototypesHandler,
    FusedSGD,
    LearningRateHandler,
    MultiViews,
    PrepareDenseViews,
    PrepareViews,
    ResNet3DEncoder,
    TeacherEMAHandler,
    ViewRecipe,
    decay_groups,
)

STEPS, EPOCHS, SIZE = 10, 2, [16, 16, 16]
FIGURES = ("loss", "stage_1_loss", "stage_2_loss", "stage_3_loss", "stage_4_loss", "center_norm")
# layer norm in the heads, group norm in the encoder: elsewhere a batch so small lets rounding grow tenfold a step
HEADS = {"head_norm": "layer", "head_hidden": 32, "head_bottleneck": 16, "seed": 5}

# As computed at version 0.1.0, before the package had rooms.
# Rows are steps; columns are FIGURES, the teacher's momentum and the learning rate of the step.
PUBLISHED = """
4.97184 4.24906 9.46412 4.3571 1.81708 0.133305 0.9 0
4.71039 4.36937 8.58236 4.18815 1.70168 0.254205 0.902447 0.01
0.217256 0.197472 0.381373 0.131657 0.158524 0.373795 0.909549 0.02
0.266466 0.361169 0.220601 0.330181 0.153915 0.484018 0.920611 0.02
0.221727 0.306041 0.179795 0.270235 0.130839 0.586986 0.934549 0.0191087
0.218074 0.304722 0.170721 0.2699 0.126954 0.682769 0.95 0.0166114
0.131891 0.145281 0.103897 0.15802 0.120366 0.771027 0.965451 0.0130027
0.108655 0.0974426 0.100424 0.114523 0.122231 0.851849 0.979389 0.00899731
0.111884 0.0959411 0.111326 0.107959 0.132311 0.925894 0.990451 0.00538859
0.145606 0.131136 0.147989 0.134957 0.168343 0.993655 0.997553 0.00289128
"""
SMALL = """
4.00105 5.10162 7.62563 4.99036 5.77699 0.13592 0.9 0
4.22384 5.07032 7.58179 5.10958 5.93103 0.260507 0.902447 0.0001
3.60551 4.74379 7.67473 4.62459 5.22546 0.370052 0.909549 0.0002
3.43256 4.61905 6.78968 4.52298 5.10362 0.46663 0.920611 0.0002
3.27218 4.51731 6.16109 4.47785 4.85592 0.550103 0.934549 0.000191087
2.45265 4.33649 5.68851 4.46506 4.85135 0.624816 0.95 0.000166114
2.37431 4.11825 5.42437 4.37619 4.61537 0.692796 0.965451 0.000130027
1.89114 3.92557 5.39667 4.16789 4.33559 0.75122 0.979389 8.99731e-05
1.98867 3.88232 5.08072 4.24868 4.39152 0.803089 0.990451 5.38859e-05
2.06539 3.84543 4.89702 4.15693 4.30078 0.848386 0.997553 2.89128e-05
"""


def contexts():
    """Four volumes a batch, five batches an epoch: waves whose lengths and phases differ from volume to volume."""
    x, y, z = torch.meshgrid(*(torch.arange(float(side)) for side in (22, 24, 20)), indexing="ij")
    for first in range(0, 20, 4):
        index = torch.arange(first, first + 4)
        n = index[:, None, None, None]
        image = torch.sin((0.2 + 0.03 * n) * x + n) + torch.cos((0.9 - 0.03 * n) * y) * torch.sin(0.3 * z + n)
        size = torch.tensor([image.shape[1:]] * 4)
        yield {"image": image[:, None], "context_size": size, "index": index, "epoch": index}


def views(noise_sd, flips):
    """Of one recipe with every change of intensity, and of another that differs in its probabilities."""
    common = {"size": SIZE, "scale": [[0.8, 1.2]] * 3, "flip_probability": flips, "noise_sd": noise_sd}
    common |= {"blur_sigma": [0.1, 1.0], "multiplicative_brightness": [0.75, 1.25], "additive_brightness_sd": 0.4}
    common |= {"contrast": [0.75, 1.25], "gamma": [0.7, 1.5]}
    return MultiViews([ViewRecipe(**common), ViewRecipe(**common, blur_probability=0.5, gamma_probability=0.8)], seed=3)


@dataclass
class Watch:
    """The figures of each step."""

    sources: list
    rows: list = field(default_factory=list)

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        said = {name: value for source in self.sources for name, value in source.scalars().items()}
        self.rows.append([said[name] for name in (*FIGURES, "teacher_momentum", "learning_rate")])


def trajectory(network, loss, optimizer, prepare, peak):
    """Train, and tell the figures of each step."""
    rate = LearningRateHandler(optimizer, CosineSchedule(peak, 0.1 * peak, STEPS, warmup_steps=3))
    teacher = TeacherEMAHandler(network, CosineSchedule(0.9, 1.0, STEPS))
    watch = Watch([loss, rate, teacher])
    SupervisedTrainer(
        device="cpu",
        max_epochs=EPOCHS,
        train_data_loader=list(contexts()),
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        prepare_batch=prepare,
        decollate=False,
        train_handlers=[rate, teacher, FreezePrototypesHandler(network), watch],
    ).run()
    return torch.tensor(watch.rows)


def encoder():
    return ResNet3DEncoder(depth=10, width=8, norm="group", stem_kernel=3, stem_stride=1, stem_pool=False)


def table(text):
    return torch.tensor([[float(word) for word in line.split()] for line in text.strip().splitlines()])


def test_the_published_form_goes_its_way():
    network = DeepSelfDistillationNetwork(encoder(), 24, **HEADS)
    optimizer = FusedSGD(decay_groups(network.student, 1e-6), lr=0.02, momentum=0.9)
    prepare = PrepareViews(views(noise_sd=[0.0, 0.1], flips=[0.8] * 3))
    found = trajectory(network, DeepSelfDistillationLoss(24), optimizer, prepare, peak=0.02)
    torch.testing.assert_close(found, table(PUBLISHED), rtol=1e-3, atol=1e-6)


def dense_network():
    return DenseDistillationNetwork(encoder(), 24, dense_prototypes=12, dense_target="same_stage", **HEADS)


def test_the_form_for_small_data_goes_its_way():
    network = dense_network()
    optimizer = torch.optim.AdamW(decay_groups(network.student, 0.01), lr=0.0002, fused=True)
    common = {"teacher_temperature": 0.03, "centering": "sinkhorn"}
    terms = [DenseDistillationLoss(12, same_stage=True, **common), CodingRateTerm(1.0)]
    prepare = PrepareDenseViews(views(noise_sd=[0.0, 0.2], flips=[0.0] * 3), num_points=8)
    loss = DeepSelfDistillationLoss(24, terms=terms, **common)
    found = trajectory(network, loss, optimizer, prepare, peak=0.0002)
    torch.testing.assert_close(found, table(SMALL), rtol=1e-3, atol=1e-6)
