"""Run by nnU-Net's Python: load a checkpoint as nnU-Net does, and train an epoch from it and from random weights.

``first_epoch.py PREPROCESSED CHECKPOINT ITERATIONS`` ends with a line of JSON: how many of the encoder's tensors are
equal after loading, and the losses of both epochs. They differ in their start; nnU-Net draws its patches anew in each.
"""

import json
import sys
from pathlib import Path

import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

folder, checkpoint, iterations = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
plans, about = (json.loads((folder / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset"))
seen = {}
for start in ("pretrained", "random"):
    torch.manual_seed(0)
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", 0, about, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, iterations, 2
    trainer.disable_checkpointing = True
    trainer.initialize()
    if start == "pretrained":
        load_pretrained_weights(trainer.network, checkpoint)
        ours, network = torch.load(checkpoint, weights_only=True)["network_weights"], trainer.network.state_dict()
        encoder = [name for name in network if name.startswith("encoder.")]
        seen["tensors"], seen["equal"] = len(encoder), sum(torch.equal(network[name], ours[name]) for name in encoder)
    trainer.run_training()
    logged = getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging
    seen[start] = {name: float(logged[name][0]) for name in ("train_losses", "val_losses")}
print(json.dumps(seen))
