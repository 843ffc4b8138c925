"""``pack --checks true``: a packed bundle used in all the ways that its consumers do, on tiny volumes.

Everything happens in processes of their own that cannot import this project, from a working directory that is neither
the bundle's nor the repository's: what a person has after a download.
"""

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from desd_components.base.errors import UserError
from desd_components.base.files import write_json
from desd_components.base.manifests import read_manifest

from .metadata_schema import METADATA_SCHEMA
from .pack_consumers import CHECKS

logger = logging.getLogger(__name__)


SHAPE = (36, 34, 33)
CASES = 4


def write_volumes(bundle: Path, folder: Path) -> Path:
    """A Decathlon folder of tiny volumes, with every class of the bundle's weights in each, or any two."""
    class_names = read_manifest(bundle / "models" / "model.pt").get("class_names", ["background", "one", "two"])
    generator, pairs = np.random.default_rng(0), []
    for number in range(CASES):
        pair = {"image": f"imagesTr/tiny_{number}.nii.gz", "label": f"labelsTr/tiny_{number}.nii.gz"}
        label = (np.indices(SHAPE).sum(axis=0) // 8 % len(class_names)).astype(np.uint8)
        image = (label + generator.normal(size=SHAPE)).astype(np.float32)
        for name, array in zip(pair.values(), (image, label), strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / name)
        pairs.append(pair)
    labels = {str(value): name for value, name in enumerate(class_names)}
    write_json(folder / "dataset.json", {"labels": labels, "training": pairs})
    return folder


def foreign_environment() -> dict[str, str]:
    """This process's environment without the way that leads to this project, and leaving no trace in the bundle."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"}


def run_foreign(
    arguments: Sequence[str], folder: Path, python: str | Path = sys.executable
) -> subprocess.CompletedProcess:
    """Run Python in `folder`, which is not put on its ``sys.path`` either."""
    command = [str(python), "-P", *arguments]
    return subprocess.run(command, cwd=folder, env=foreign_environment(), capture_output=True, text=True)


def last_words(done: subprocess.CompletedProcess) -> str:
    """What a failed process said last."""
    return next(iter(done.stderr.strip().splitlines()[-1:]), "no word")


def check_consumers(bundle: Path, data: Path) -> None:
    """MONAI's own functions, in one process; see `pack_consumers`.

    Raises:
        UserError: naming the check that fails.
    """
    schema = data.parent / "schema.json"
    write_json(schema, METADATA_SCHEMA)
    script = Path(__file__).with_name("pack_consumers.py")
    done = run_foreign([str(script), str(bundle), str(data), str(schema)], data.parent)
    begun = [line.removeprefix("begin: ") for line in done.stdout.splitlines() if line.startswith("begin: ")]
    if done.returncode != 0:
        name = begun[-1] if begun else "start"
        raise UserError(f"{bundle}: check {name!r} fails: {last_words(done)}")
    if "foreign: False" in done.stdout:
        logger.warning("desd_components is installed here: the checks used that copy, not the one in %s.", bundle)
    logger.info("%s: %d checks of consumers passed.", bundle.name, len(CHECKS))


def commands(bundle: Path, data: Path, tracking: bool = True) -> dict[str, tuple[list[str], Path]]:
    """What is done -> its command line, as a person types it, and a file that it must leave.

    Training is also tracked by mlflow, which no bundle needs, where `tracking` says so.
    """
    configs, runs = bundle / "configs", data.parent / f"runs_{bundle.name}"
    settings = {"dataset_dir": data, "cache_dir": data.parent / "cache"}
    training = [str(configs / f"{name}.json") for name in ("train", "smoke")]
    encoder = read_manifest(bundle / "models" / "model.pt")["kind"] == "encoder"
    trained = {"encoder_checkpoint": runs / "train" / "encoder.pt"} if encoder else {}
    state = runs / "train" / "state_previous.pt"
    train = {**settings, "output_dir": runs / "train"} | ({"tracking": "mlflow"} if tracking else {})
    evaluation = runs / ("evaluation" if encoder else "train")
    evaluated = {**settings, **trained, "output_dir": evaluation}
    inferred = {"dataset_dir": data / "imagesTr", "output_dir": runs / "inference"}
    return {
        "training with --tracking mlflow" if tracking else "training": (
            run_command(training, train, "training"),
            runs / "train" / ("mlruns.db" if tracking else f"{'encoder' if encoder else 'model'}.pt"),
        ),
        "going on": (run_command(training, train | {"max_epochs": 3, "extend": "stretch"}, "training"), state),
        "evaluation": (
            run_command([*training, str(configs / "evaluate.json")], evaluated),
            evaluation / "metrics.json",
        ),
        "inference": (
            run_command([str(configs / "inference.json")], inferred),
            runs / "inference" / f"tiny_0.{'npz' if encoder else 'nii.gz'}",
        ),
    }


def run_command(files: Sequence[str], settings: dict, *words: str) -> list[str]:
    """The arguments of Python for one run of a bundle."""
    given = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return ["-m", "monai.bundle", "run", *words, "--config_file", str(list(files)), *given]


def check_commands(bundle: Path, data: Path, python: str | Path = sys.executable, tracking: bool = True) -> None:
    """The command line, of the interpreter `python`; see `commands`.

    Raises:
        UserError: naming what fails.
    """
    for name, (arguments, result) in commands(bundle, data, tracking).items():
        done = run_foreign(arguments, data.parent, python)
        if done.returncode != 0:
            raise UserError(f"{bundle}: {name} fails: {last_words(done)}")
        if not result.is_file():
            raise UserError(f"{bundle}: {name} fails: it left no {result.name}.")
        logger.info("%s: %s works from another folder.", bundle.name, name)


def check_packed(bundle: Path) -> None:
    """All checks of one packed bundle.

    Raises:
        UserError: naming the first that fails, with the last words of its process.
    """
    for package in ("jsonschema", "mlflow"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"pack --checks needs {package}, which is not installed: pip install {package}")
    with tempfile.TemporaryDirectory() as folder:
        data = write_volumes(bundle, Path(folder) / "data")
        check_consumers(bundle, data)
        check_commands(bundle, data)
