"""What a bundle must be before and after packing. Each rule breaks with one line: which rule, where, what to do."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError
from desd_components.base.manifests import load_weights, read_manifest
from desd_components.distillation.encoder import ResNet3DEncoder
from desd_components.segmentation.model import network_from_manifest

from .metadata_schema import METADATA_SCHEMA
from .publish import bundle_kind, described

REQUIRED_FILES = (
    "LICENSE",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
    "models/model.json",
    "configs/metadata.json",
    "configs/logging.conf",
    *(f"configs/{name}.yaml" for name in ("train", "small", "smoke", "evaluate", "inference", "multi_gpu_train")),
)
#: of the zoo's template for a bundle's README
SECTIONS = ("Description", "Data", "Performance", "System configuration", "Limitations", "Citation", "References")
EXACT_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?")
PERSONAL_PATH = re.compile(
    r"(?<![\w.:/])(?:/(?:home|Users|root|work|tmp|mnt|media|scratch)/|[A-Z]:\\+Users\\)[^\s\"',;)]*"
)
TEXT = {".py", ".json", ".yaml", ".yml", ".md", ".txt", ".conf", ""}
#: metadata keys of packages that have a key of their own
OWN_KEYS = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
#: where a module's distribution is not installed here and goes by another name
DISTRIBUTIONS = {"ignite": "pytorch-ignite", "yaml": "PyYAML"}


def refuse(rule: str, where: Path | str, what: str) -> None:
    """Break off with the one line that `pack` prints."""
    raise UserError(f"{where}: cannot be packed, for rule '{rule}' fails: {what}")


def refuse_unfit_source(bundle: Path) -> None:
    """Check a bundle as it stands in the repository.

    Raises:
        UserError: naming the first rule that it breaks.
    """
    missing = [name for name in REQUIRED_FILES if not (bundle / name).is_file()]
    if missing:
        refuse("files", bundle, f"without {', '.join(missing)}. `publish` fills models/, the rest is written by hand.")
    check_metadata(bundle / "configs" / "metadata.json")
    check_readme(bundle / "docs" / "README.md")
    check_weights(bundle)


def refuse_unfit_package(bundle: Path) -> None:
    """Check a packed folder.

    Raises:
        UserError: naming the first rule that it breaks.
    """
    check_paths(bundle)
    check_pins(bundle)


def check_metadata(path: Path) -> None:
    """Required fields, a changelog with the present version, exact versions, channels that consumers can read."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        refuse("metadata is JSON", path, f"{error}.")
    absent = [key for key in METADATA_SCHEMA["required"] if key not in content]
    if absent:
        refuse("metadata fields", path, f"{', '.join(absent)} absent. Write {'it' if len(absent) == 1 else 'them'} in.")
    if "optional_packages_version" in content:
        refuse("no optional packages", path, "MONAI puts them in place of the required ones. Name all as required.")
    if content["version"] not in content.get("changelog", {}):
        refuse("changelog", path, f"it has no entry for version {content['version']}. Say what is new in it.")
    for name, version in stated_versions(content).items():
        if not EXACT_VERSION.fullmatch(str(version)):
            refuse(
                "exact versions", path, f"{name} is {version!r}. Write one that `pip install {name}==` takes: 2.13.0."
            )
    check_channels(path, content["network_data_format"])


def stated_versions(content: dict[str, Any]) -> dict[str, str]:
    """Distribution -> version, of all that the metadata name."""
    own = {name: content[key] for name, key in OWN_KEYS.items()}
    return own | content["required_packages_version"]


def check_channels(path: Path, data: dict[str, Any]) -> None:
    """`inputs.image` and `outputs.pred` come first, with "0".."C-1" as channels, distinct in lower case."""
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        if next(iter(data[side]), None) != name:
            refuse("first input and output", path, f"{side} must begin with {name!r}, which exporters look for.")
        channels = data[side][name]["channel_def"]
        # a feature map of hundreds of channels names none of them but the first
        wanted = 1 if data[side][name]["type"] == "feature" else data[side][name]["num_channels"]
        if list(channels) != [str(i) for i in range(wanted)] or len({v.lower() for v in channels.values()}) < wanted:
            refuse("channels", path, f"{side}.{name}.channel_def needs distinct names under 0 to {wanted - 1}.")


def check_readme(path: Path) -> None:
    """The sections of the zoo's template."""
    headings = " / ".join(line for line in path.read_text().splitlines() if line.startswith("#")).lower()
    absent = [section for section in SECTIONS if section.lower() not in headings]
    if absent:
        refuse("README sections", path, f"no heading has {', '.join(absent)}.")


def check_weights(bundle: Path) -> None:
    """A flat file that fits its manifest, and metadata that describe it."""
    path = bundle / "models" / "model.pt"
    manifest, wanted = read_manifest(path), bundle_kind(bundle)
    if manifest.get("kind") != wanted:
        refuse("weights", path, f"of kind {manifest.get('kind')!r}, not {wanted!r}. Use `publish`.")
    encoder = wanted == "encoder"
    load_weights(ResNet3DEncoder(**manifest["architecture"]) if encoder else network_from_manifest(manifest), path)
    content = json.loads((bundle / "configs" / "metadata.json").read_text())
    if described(json.loads(json.dumps(content)), manifest) != content:
        refuse("metadata fit weights", bundle / "configs" / "metadata.json", "other channels. Use `publish`.")


def check_paths(bundle: Path) -> None:
    """No path of somebody's machine in any text."""
    for path in sorted(bundle.rglob("*")):
        if not path.is_file() or path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            found = PERSONAL_PATH.search(line)
            if found:
                refuse("no personal path", f"{path}:{number}", f"{found.group()}. Write a relative one.")


def check_pins(bundle: Path) -> None:
    """Every package that the code and the configs of a packed bundle name has its exact version in the metadata."""
    path = bundle / "configs" / "metadata.json"
    pinned = {normal(name) for name in stated_versions(json.loads(path.read_text()))}
    installed = metadata.packages_distributions()  # reads the records of all that is installed: once
    for module, user in sorted(needed_modules(bundle).items()):
        distribution = DISTRIBUTIONS.get(module) or next(iter(installed.get(module, [module])))
        if normal(distribution) not in pinned:
            refuse("package pins", path, f"{distribution}, which {user} needs, has no version in it.")


def normal(name: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_modules(bundle: Path) -> dict[str, str]:
    """Top-level module, none of Python's own or of the bundle's -> the first file that names it."""
    own = set(sys.stdlib_module_names) | {path.name for path in bundle.iterdir()}
    found: dict[str, str] = {}
    for path in sorted([*bundle.rglob("*.py"), *(bundle / "configs").glob("*.json")]):
        names = imported(path.read_text()) if path.suffix == ".py" else configured(json.loads(path.read_text()))
        for name in names:
            if name not in own:
                found.setdefault(name, path.relative_to(bundle).as_posix())
    return found


def imported(code: str) -> Iterator[str]:
    """Top-level names of the modules that a file imports, late imports included."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def configured(config: Any) -> Iterator[str]:
    """Top-level names of the modules that a config imports, or whose members it instantiates."""
    if isinstance(config, dict):
        target = config.get("_target_")
        if isinstance(target, str) and "." in target:
            yield target.split(".")[0]
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        if isinstance(value, str) and value.startswith("$import "):
            yield value.split()[1].split(".")[0]
        yield from configured(value)
