"""Every example of docs/own_training_loop.md runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from bundle_runs import ROOT
from monai.engines import SupervisedTrainer
from random_weights import write_encoder

import desd_components

TEXT = (ROOT / "docs" / "own_training_loop.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([\w ]+)\n\n```python\n(.*?)```", TEXT, flags=re.S | re.M))


class Volumes(torch.utils.data.Dataset):
    """Two volumes with a label map and a class."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        label = torch.randint(0, 3, (1, 32, 32, 32))
        return {"image": torch.randn(1, 32, 32, 32), "label": label, "class": torch.tensor(index)}


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_encoder(Path("encoder.pt"))
    return {
        "desd_components": desd_components,
        "torch": torch,
        "SupervisedTrainer": SupervisedTrainer,
        "device": torch.device("cpu"),
        "volumes": torch.randn(2, 1, 32, 32, 32),
        "loader": torch.utils.data.DataLoader(Volumes(), batch_size=2),
    }


def test_the_examples_are_these():
    assert list(EXAMPLES) == ["Plain PyTorch", "MONAI", "Lightning"]


def test_plain_pytorch(names):
    exec(EXAMPLES["Plain PyTorch"], names)
    assert names["deepest"].shape == names["stage_4"].shape == (2, 64, 4, 4, 4)
    assert names["stage_1"].shape == (2, 8, 32, 32, 32)


def test_monai(names):
    exec(EXAMPLES["MONAI"], names)
    stored = torch.load("encoder.pt", weights_only=True)
    trained = names["network"].encoder.state_dict()
    assert any(not torch.equal(trained[name], stored[name]) for name in stored)


def test_lightning(names):
    names["lightning"] = pytest.importorskip("lightning")
    exec(EXAMPLES["Lightning"], names)
