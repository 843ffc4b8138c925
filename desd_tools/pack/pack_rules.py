"""What a bundle must be before and after packing. Each rule breaks with one line: which rule, where, what to do."""

import json
import re
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError
from desd_components.base.manifests import NON_COMMERCIAL

from .metadata_schema import EXACT_VERSION, METADATA_SCHEMA
from .publish import described, weights_for
from .reached import normal

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
PERSONAL_PATH = re.compile(
    r"(?<![\w.:/])(?:/(?:home|Users|root|work|tmp|mnt|media|scratch)/|[A-Z]:\\+Users\\)[^\s\"',;)]*"
)
TEXT = {".py", ".json", ".yaml", ".yml", ".md", ".txt", ".conf", ""}
#: metadata keys of packages that have a key of their own
OWN_KEYS = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}


def refuse(rule: str, where: Path | str, what: str) -> None:
    """Break off with the one line that `pack` prints."""
    raise UserError(f"{where}: cannot be packed, for rule '{rule}' fails: {what}")


def refuse_unfit_source(bundle: Path, non_commercial: bool = False) -> None:
    """Check a bundle as it stands in the repository; weights for non-commercial use only are taken where asked.

    Raises:
        UserError: naming the first rule that it breaks.
    """
    missing = [name for name in REQUIRED_FILES if not (bundle / name).is_file()]
    if missing:
        refuse("files", bundle, f"without {', '.join(missing)}. `publish` fills models/, the rest is written by hand.")
    check_metadata(bundle / "configs" / "metadata.json")
    check_readme(bundle / "docs" / "README.md")
    check_weights(bundle, non_commercial)


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
        if not re.match(EXACT_VERSION, str(version)):
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
    """The head of a hub's card, and the sections of the zoo's template."""
    if not path.read_text().startswith("<!-- model card\nlicense: "):
        refuse("model card", path, "it must begin with `<!-- model card`, and `license: ` of the weights below.")
    headings = " / ".join(line for line in path.read_text().splitlines() if line.startswith("#")).lower()
    absent = [section for section in SECTIONS if section.lower() not in headings]
    if absent:
        refuse("README sections", path, f"no heading has {', '.join(absent)}.")


def check_weights(bundle: Path, non_commercial: bool) -> None:
    """A flat file that fits its manifest, of a licence that lets all use it, and metadata that describe it."""
    path = bundle / "models" / "model.pt"
    manifest = weights_for(bundle, path)
    if str(manifest.get("licence")).startswith(NON_COMMERCIAL) and not non_commercial:
        refuse("free weights", path, f"{manifest['licence']}. Take other weights, or say --non-commercial true.")
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


def check_pins(path: Path, needed: dict[str, str]) -> None:
    """Every package that is needed has its exact version in the metadata.

    Args:
        path: metadata.json.
        needed: distribution -> what needs it; see `reached.packages`.
    """
    pinned = {normal(name) for name in stated_versions(json.loads(path.read_text()))}
    for distribution, user in sorted(needed.items()):
        if distribution not in pinned:
            refuse("package pins", path, f"{distribution}, which {user} needs, has no version in it.")
