"""The consumers of a packed bundle, each as it meets one: run as a file, in a process that cannot import this project.

``python -P pack_consumers.py BUNDLE DATA_FOLDER SCHEMA``, from a folder that is neither the bundle's nor the
repository's. Nothing of ours may be imported here: the bundle has to bring it. Prints a line for each check.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import (
    ckpt_export,
    create_workflow,
    load,
    load_bundle_config,
    verify_metadata,
    verify_net_in_out,
)
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from monai.networks.utils import get_state_dict

CONFIGS = (("train", "train"), ("inference", "infer"))


class Consumers:
    """One packed bundle in the hands of each of its consumers.

    Args:
        bundle: the packed folder; its zip lies beside it.
        data: a Decathlon folder of tiny volumes, whose classes are those of the bundle's weights.
        schema: the JSON schema for the metadata.
    """

    def __init__(self, bundle: Path, data: Path, schema: Path) -> None:
        self.bundle, self.schema = bundle, schema
        self.configs, self.weights = bundle / "configs", bundle / "models" / "model.pt"
        self.settings: dict[str, Any] = {
            "dataset_dir": str(data),
            "output_dir": str(data.parent / "federated"),
            "cache_dir": str(data.parent / "cache"),
            "batch_size": 2,
            "max_epochs": 2,
            "num_workers": 0,
            "samples_per_epoch": 2,
        }

    def metadata_fit_the_schema(self) -> None:
        """`verify_metadata`, with a schema that lies where it would be downloaded to."""
        verify_metadata(meta_file=str(self.configs / "metadata.json"), filepath=str(self.schema))

    def configs_are_read_from_folder_and_zip(self) -> None:
        """`load_bundle_config`."""
        for place in (self.bundle, self.bundle.with_name(f"{self.bundle.name}.zip")):
            for name in ("train.json", "inference.json"):
                assert load_bundle_config(str(place), name)["bundle_root"] == "."

    def load_gives_the_network_with_its_weights(self) -> None:
        """`monai.bundle.load`: every tensor of the file; heads that ``train.json`` has for training may be new."""
        found = self.loaded().state_dict()
        for name, tensor in torch.load(self.weights, weights_only=True).items():
            assert torch.equal(found.pop(name), tensor), f"{name} is not that of the file"
        assert all(name.startswith("deep_heads.") for name in found), f"{list(found)} are in no file"

    def loaded(self) -> torch.nn.Module:
        """The network as `monai.bundle.load` gives it."""
        network = load(self.bundle.name, bundle_dir=str(self.bundle.parent), source="monaihosting", device="cpu")
        assert isinstance(network, torch.nn.Module)
        return network.eval()

    def networks_fit_the_metadata(self) -> None:
        """`verify_net_in_out`."""
        for name, _ in CONFIGS:
            file = str(self.configs / f"{name}.json")
            verify_net_in_out(
                "network_def", meta_file=str(self.configs / "metadata.json"), config_file=file, device="cpu"
            )

    def exported_network_says_the_same(self) -> None:
        """`ckpt_export` of the network that infers, then `torch.jit.load`."""
        x, exported = torch.randn(2, 1, 32, 32, 64), f"{self.bundle.name}.ts"
        ckpt_export(
            "network_def",
            filepath=exported,
            ckpt_file=str(self.weights),
            meta_file=str(self.configs / "metadata.json"),
            config_file=str(self.configs / "inference.json"),
        )
        with torch.no_grad():
            torch.testing.assert_close(torch.jit.load(exported).eval()(x), self.loaded()(x))

    def workflows_have_all_properties(self) -> None:
        """`create_workflow` and `check_properties`, of training, evaluation and inference."""
        train, inference = self.configs / "train.json", self.configs / "inference.json"
        for files, kind in (
            ([train], "train"),
            ([train, self.configs / "evaluate.json"], "train"),
            ([inference], "infer"),
        ):
            settings = {"dataset_dir": self.settings["dataset_dir"]} if kind == "infer" else self.settings
            workflow = create_workflow(config_file=[str(file) for file in files], workflow_type=kind, **settings)
            assert workflow.check_properties() == [], [file.name for file in files]

    def federated_rounds_exchange_weights(self) -> None:
        """Two rounds of `MonaiAlgo`: what the server sends is what training starts from, and what evaluation scores."""
        algorithm = MonaiAlgo(str(self.bundle), train_kwargs=dict(self.settings), eval_kwargs=dict(self.settings))
        algorithm.initialize({ExtraItems.CLIENT_NAME: "tiny"})
        assert algorithm.trainer is not None
        sent = {name: tensor.clone() for name, tensor in get_state_dict(algorithm.trainer.network).items()}
        first = next(name for name, tensor in sent.items() if tensor.is_floating_point() and tensor.ndim > 1)
        for _ in range(2):
            sent[first] += 1.0  # a client that goes on from its own file would come back without this
            algorithm.train(ExchangeObject(weights=sent))
            change = algorithm.get_weights().weights
            assert any(float(abs(value).max()) > 0 for value in change.values()), "nothing was learnt"
            assert float(abs(change[first]).max()) < 0.5, f"training did not start from the {first} that was sent"
            sent = {name: tensor + torch.as_tensor(change[name]) for name, tensor in sent.items()}
            assert algorithm.evaluate(ExchangeObject(weights=sent)).metrics, "no metrics"
        algorithm.finalize()


CHECKS: tuple[Callable[[Consumers], None], ...] = (
    Consumers.metadata_fit_the_schema,
    Consumers.configs_are_read_from_folder_and_zip,
    Consumers.load_gives_the_network_with_its_weights,
    Consumers.networks_fit_the_metadata,
    Consumers.exported_network_says_the_same,
    Consumers.workflows_have_all_properties,
    Consumers.federated_rounds_exchange_weights,
)


def main(bundle: str, data: str, schema: str) -> None:
    """Run every check; the first that fails ends the process, and its name is the last one begun."""
    print(f"foreign: {importlib.util.find_spec('desd_components') is None}", flush=True)
    consumers = Consumers(Path(bundle), Path(data), Path(schema))
    for check in CHECKS:
        print(f"begin: {check.__name__}", flush=True)
        check(consumers)
    package = sys.modules["desd_components"].__file__
    print(f"package: {package}\nall checks passed", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
