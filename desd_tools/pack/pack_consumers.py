"""The consumers of a packed bundle, each as it meets one: run as a file, in a process that cannot import this project.

``python -P pack_consumers.py BUNDLE DATA_FOLDER SCHEMA``, from a folder that is neither the bundle's nor the
repository's. Nothing of ours may be imported here: the bundle has to bring it. Prints a line for each check.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import (
    ConfigParser,
    ckpt_export,
    create_workflow,
    load,
    load_bundle_config,
    verify_metadata,
    verify_net_in_out,
)
from monai.data import MetaTensor
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from monai.networks.utils import get_state_dict
from monai.transforms import Compose, LoadImage, LoadImaged, SaveImaged

CONFIGS = (("train", "train"), ("inference", "infer"))


class LabelReads:
    """The reads of MONAI Label's `BundleInferTask`, in its order: what it sets, opens and leaves out.

    Written from the source of monailabel 0.8.5 (``tasks/infer/bundle.py``, ``basic_infer.py``), not the package itself.
    """

    def __init__(self, bundle: Path) -> None:
        self.parser: Any = ConfigParser()
        self.parser.read_config(str(bundle / "configs" / "inference.json"))
        self.parser.set(str(bundle), "bundle_root")
        self.network = self.parser.get_parsed_content("network_def", instantiate=True)
        self.network.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location="cpu"), strict=True)
        self.options = dict(self.parser.get("displayable_configs") or {})

    def __call__(self, scan: Path) -> Any:
        """What a request for `scan` gives, before it is written."""
        if self.options:  # a request states them anew
            self.parser.set(dict(self.options), "displayable_configs")
            self.parser.parse()
        sample: Any = {"image": str(scan)}
        for transform in self.transforms("preprocessing"):
            if isinstance(transform, LoadImaged):
                transform._loader.image_only = False
            sample = transform(sample)
        inferer = self.parser.get_parsed_content("inferer", instantiate=True)
        with torch.no_grad():
            sample["pred"] = inferer(sample["image"][None], self.network.eval())[0]
        for transform in self.transforms("postprocessing"):
            if not isinstance(transform, SaveImaged):
                sample = transform(sample)
        return sample["pred"]

    def transforms(self, name: str) -> list[Callable]:
        """The single steps of a Compose of the config."""
        found = self.parser.get_parsed_content(name, instantiate=True) if self.parser.get(name) else []
        return list(found.transforms) if isinstance(found, Compose) else found


class DeployReads:
    """The reads of MONAI Deploy's `MonaiBundleInferenceOperator` in a bundle's folder, with `bundle_root` as it stands.

    Written from the source of monai-deploy-app-sdk 4.0.0, not the package itself, which needs Holoscan for CUDA.
    """

    def __init__(self, bundle: Path) -> None:
        self._bundle_path = bundle  # its name there, which the package looks for

    def __call__(self, scan: Path) -> Any:
        """What the operator makes of an image that another one has loaded."""
        parser: Any = ConfigParser()
        parser.read_meta(json.loads((self._bundle_path / "configs" / "metadata.json").read_text()))
        parser.read_config([self._bundle_path / "configs" / "inference.json"])
        parser.parse()
        device, inferer = parser.get_parsed_content("device"), parser.get_parsed_content("inferer")
        steps = {name: self.kept(parser, name) for name in ("preprocessing", "postprocessing")}
        network = parser.get_parsed_content("network")
        network.load_state_dict(torch.load(self._bundle_path / "models" / "model.pt", map_location=device), strict=True)
        volume = LoadImage(image_only=True)(str(scan))
        meta = {"affine": volume.affine, "original_affine": volume.affine, "original_channel_dim": "no_channel"}
        sample = steps["preprocessing"]({"image": MetaTensor.ensure_torch_and_prune_meta(volume.as_tensor(), meta)})
        with torch.no_grad():
            pred = inferer(inputs=sample["image"][None].to(device), network=network.eval())
        # with the batch's axis gone, as the operator of an earlier stage hands it over
        return steps["postprocessing"]({"pred": pred[0], **sample})["pred"]

    def kept(self, parser: ConfigParser, name: str) -> Compose:
        """A Compose of the config without what loads and saves files."""
        if parser.get(name) is None:
            return Compose([])
        compose = parser.get_parsed_content(name)
        names = ("LoadImage", "SaveImage")
        compose.transforms = tuple(t for t in compose.transforms if not any(n in type(t).__name__ for n in names))
        return compose


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
        }
        if "samples_per_epoch" in json.loads((self.configs / "train.json").read_text()):
            self.settings["samples_per_epoch"] = 2

    def metadata_fit_the_schema(self) -> None:
        """`verify_metadata`, with a schema that lies where it would be downloaded to."""
        verify_metadata(meta_file=str(self.configs / "metadata.json"), filepath=str(self.schema))

    def configs_are_read_from_folder_and_zip(self) -> None:
        """`load_bundle_config`."""
        for place in (self.bundle, self.bundle.with_name(f"{self.bundle.name}.zip")):
            for name in ("train.json", "inference.json"):
                assert load_bundle_config(str(place), name)["bundle_root"] == "."

    def load_gives_the_network_with_its_weights(self) -> None:
        """`monai.bundle.load`: every tensor is that of the file."""
        stored = torch.load(self.weights, weights_only=True)
        found = self.loaded().state_dict()
        assert found.keys() == stored.keys()
        assert all(torch.equal(found[name], stored[name]) for name in stored)

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
        """`ckpt_export`, then `torch.jit.load`."""
        x = torch.randn(2, 1, 32, 32, 64)
        for name, _ in CONFIGS:
            exported = f"{self.bundle.name}_{name}.ts"
            ckpt_export(
                "network_def",
                filepath=exported,
                ckpt_file=str(self.weights),
                meta_file=str(self.configs / "metadata.json"),
                config_file=str(self.configs / f"{name}.json"),
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

    def label_and_deploy_say_the_same(self) -> None:
        """Both make the same of a scan: labels on its grid, or an encoder's maps."""
        scan = sorted((Path(self.settings["dataset_dir"]) / "imagesTr").glob("*.nii.gz"))[0]
        label, deploy = LabelReads(self.bundle)(scan), DeployReads(self.bundle)(scan)
        torch.testing.assert_close(torch.as_tensor(deploy), torch.as_tensor(label))
        if "samples_per_epoch" in self.settings:
            assert label.shape == (1, *LoadImage(image_only=True)(str(scan)).shape), "labels on another grid"

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
    Consumers.label_and_deploy_say_the_same,
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
