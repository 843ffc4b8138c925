"""All promises, from the most telling on; where time runs out, the last are left untried."""

from __future__ import annotations

from functools import partial

from .arithmetic import compiled, cudnn, mixed_precision, views
from .promise import Promise
from .training import end_to_end, moved, processes, published_step, resumed

PROMISES = {
    promise.name: promise
    for promise in (
        Promise("views", "those of the CPU, to 0.001; noise repeats", 45, views),
        Promise("bfloat16", "the loss of float32 within 1 %", 45, mixed_precision),
        Promise("both bundles", "train and segment on the device", 130, partial(end_to_end, amp=False)),
        Promise(
            "step at 32", "the device waits at most 25 % of the time", 90, partial(published_step, batch=32, amp=False)
        ),
        Promise("moved", "runs and encoders go from CPU to GPU and back", 75, moved),
        Promise("resumed", "a break changes no more than a second run does", 75, resumed),
        Promise("one process", "joins a group (NCCL on a GPU), and trains", 60, partial(processes, count=1)),
        Promise("two processes", "likewise, a card each", 60, partial(processes, count=2)),
        Promise("both bundles, amp", "train and segment on the device", 130, partial(end_to_end, amp=True)),
        Promise(
            "step at 32, amp",
            "the device waits at most 25 % of the time",
            90,
            partial(published_step, batch=32, amp=True),
        ),
        Promise(
            "step at 192", "the same; out of memory is a finding", 120, partial(published_step, batch=192, amp=False)
        ),
        Promise("cuDNN", "its fastest kernels are no slower", 90, cudnn),
        Promise("compiled", "one graph, the same loss within 1 %, no slower", 180, compiled),
    )
}
