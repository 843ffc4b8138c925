"""Make a bundle that can be handed on, as the MONAI Model Zoo and its consumers expect it, and its zip.

Consumers open JSON under fixed names (`bundle.load` reads ``configs/train.json``), so the YAML sources become JSON;
``small.yaml``, which the shipped weights were trained with, is merged into ``train.json``, so that config, weights and
metadata describe one network, and the published recipe lies beside it as ``train_published.json``. A bundle sees only
its own folder after a download: it carries the part of the package that its configs reach, or names the package as a
requirement.
"""

import hashlib
import json
import logging
import re
import shutil
import zipfile
from pathlib import Path

import yaml

from desd_components.base.errors import UserError
from desd_components.base.files import write_json
from desd_components.base.manifests import read_manifest
from desd_components.base.version import __version__

from ..places import PACKAGE as SOURCE
from .pack_rules import check_paths, check_pins, refuse_unfit_source
from .packed_configs import packed_configs
from .reached import PACKAGE, carry, normal, packages

logger = logging.getLogger(__name__)


COPIED = ("LICENSE", "docs", "models", "configs/logging.conf")
#: in a bundle's README: what holds in the repository, and hidden behind it what holds in the packed bundle instead
TWO_FORMS = re.compile(r"<!-- in the repository -->\n.*?<!-- packed\n(.*?)-->\n", re.DOTALL)
#: at the head of a bundle's README, hidden: what a model hub reads at the head of its card
CARD = re.compile(r"<!-- model card\n(.*?)-->\n", re.DOTALL)
#: of entries of the zoo that lie on a model hub
HUB_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_hf_20250321.json"
)
#: of one file, above which a git host or the zoo's checks refuse it
LARGE_FILE_BYTES = 25 * 1024 * 1024
#: the earliest that a zip can hold: the same sources make the same bytes at any time
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def copy_parts(source: Path, target: Path) -> None:
    """The parts of a bundle that are packed as they are, and its README in the packed form, also as a hub's card."""
    (target / "configs").mkdir(parents=True)
    for name in COPIED:
        for file in sorted_files(source / name) or [source / name]:
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix != ".part":
                shutil.copyfile(file, copy)  # its rights are those of any new file
    readme = target / "docs" / "README.md"
    [card] = CARD.findall(readme.read_text())
    readme.write_text(re.sub(r"<!--.*?-->\n", "", TWO_FORMS.sub(r"\1", readme.read_text()), flags=re.DOTALL))
    (target / "README.md").write_text(f"---\n{card}---\n\n{readme.read_text()}")


def state_packages(source: Path, target: Path, needed: dict[str, str], requirement: bool) -> None:
    """Write the metadata of `source` to `target`, naming the packages that are `needed` and no other.

    Raises:
        UserError: when one has no version there.
    """
    path = source / "configs" / "metadata.json"
    check_pins(path, needed)
    metadata = json.loads(path.read_text())
    versions = {name: text for name, text in metadata["required_packages_version"].items() if normal(name) in needed}
    own = {normal(PACKAGE): __version__} if requirement else {}
    write_json(target / "configs" / "metadata.json", metadata | {"required_packages_version": versions | own})


def sorted_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files of `folder` and below, by name."""
    return sorted((path for path in folder.rglob(pattern) if path.is_file()), key=lambda path: path.as_posix())


def list_large_files(bundle: Path, url: str | None) -> None:
    """Write ``large_files.yml``, where a file is so large that git holds only its address and hash.

    Raises:
        UserError: when there is one and `url` does not say where it can be had.
    """
    large = [path for path in sorted_files(bundle) if path.stat().st_size > LARGE_FILE_BYTES]
    names = [path.relative_to(bundle).as_posix() for path in large]
    if names and url is None:
        raise UserError(
            f"{names[0]}: larger than 25 MB. Say where people download such files: --url https://HOST/FOLDER."
        )
    entries = [
        {
            "path": name,
            "url": f"{str(url).rstrip('/')}/{bundle.name}/{name}",
            "hash_val": hashlib.sha256(path.read_bytes()).hexdigest(),
            "hash_type": "sha256",  # MONAI's own default was another one before
        }
        for name, path in zip(names, large, strict=True)
    ]
    if entries:
        (bundle / "large_files.yml").write_text(yaml.safe_dump({"large_files": entries}, sort_keys=False))


def write_hub_entry(bundle: Path, owner: str) -> None:
    """``hf_models/<name>`` beside the folder: what the zoo holds of a model that lies on the hub, under `owner`.

    The folder loses ``docs/README.md``: of that `push_to_hf_hub` makes another card, with the licence of the code.
    """
    entry, model = bundle.parent / "hf_models" / bundle.name, f"{owner}/{bundle.name}"
    entry.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", "LICENSE"):
        shutil.copyfile(bundle / name, entry / name)
    place = {"huggingface_model_id": model, "huggingface_url": f"https://huggingface.co/{model}"}
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    write_json(entry / "metadata.json", metadata | {"schema": HUB_SCHEMA} | place)
    (bundle / "docs" / "README.md").unlink()


def write_zip(bundle: Path) -> Path:
    """``<name>.zip`` beside the folder, the same bytes from the same files: stored, for compressors differ."""
    archive = bundle.with_name(f"{bundle.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in sorted_files(bundle):
            entry = zipfile.ZipInfo(f"{bundle.name}/{path.relative_to(bundle).as_posix()}", ZIP_TIME)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # as on Unix, wherever it is made
            file.writestr(entry, path.read_bytes())
    return archive


def pack_one(
    source: Path, output: Path, url: str | None = None, requirement: bool = False, non_commercial: bool = False
) -> Path:
    """The packed folder of the bundle `source` in `output`, with its zip beside it; the arguments are those of `pack`.

    Raises:
        UserError: naming the first rule that the bundle breaks, and where.
    """
    refuse_unfit_source(source, non_commercial)
    target = output / source.name
    shutil.rmtree(target, ignore_errors=True)
    copy_parts(source, target)
    configs = packed_configs(source, requirement)
    for name, config in configs.items():  # nothing to protect by atomic writes
        (target / "configs" / name).write_text(json.dumps(config, indent=2) + "\n")
    if not requirement:
        carry(configs.values(), read_manifest(source / "models" / "model.pt")["architecture"], target / PACKAGE)
    root = SOURCE.parent if requirement else target
    needed = packages(sorted_files(root / PACKAGE, "*.py"), configs.values())
    state_packages(source, target, needed, requirement)
    list_large_files(target, url)
    check_paths(target)
    archive = write_zip(target)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    logger.info("%s: %.1f MB, sha256 %s", archive, archive.stat().st_size / 1e6, digest)
    return target


def pack(
    *bundles: str,
    output: str,
    checks: bool = False,
    url: str | None = None,
    hub: str | None = None,
    requirement: bool = False,
    non_commercial: bool = False,
) -> None:
    """Write the packed form of each of BUNDLES to OUTPUT/<name> and OUTPUT/<name>.zip.

    Args:
        bundles: such as bundles/desd_pretrain.
        output: a folder; packed bundles of these names in it are replaced.
        checks: true: use each packed bundle in all the ways that its consumers do, on tiny volumes, for some minutes.
        url: the folder from which people download what is larger than 25 MB, for ``large_files.yml``.
        hub: owner on the model hub: also write OUTPUT/hf_models/<name>, the zoo's entry for a model that lies there.
        requirement: true: carry no code, but require the package desd-components in this version; false: carry the
            part of it that the configs reach, without plans, pages, and scans other than NIfTI.
        non_commercial: also weights whose manifest says that they are for non-commercial use only.

    Raises:
        UserError: naming the first rule that a bundle breaks, or the first check that fails.
    """
    if not bundles:
        raise UserError(
            "pack: no bundle named. Say pack bundles/desd_pretrain bundles/desd_seg_finetune --output dist."
        )
    for bundle in bundles:
        packed = pack_one(Path(bundle).resolve(), Path(output).resolve(), url, requirement, non_commercial)
        if hub:
            write_hub_entry(packed, hub)
        if checks:
            from .pack_checks import check_packed

            check_packed(packed)
