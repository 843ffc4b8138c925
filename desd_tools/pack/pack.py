"""Make a bundle that stands alone, as the MONAI Model Zoo and its consumers expect it, and its zip.

Consumers open JSON under fixed names (`bundle.load` reads ``configs/train.json``), so the YAML sources become JSON;
``small.yaml``, which the shipped weights were trained with, is merged into ``train.json``, so that config, weights and
metadata describe one network, and the published recipe lies beside it as ``train_published.json``. The package goes
into the bundle, without its tools, for a bundle sees only its own folder after a download.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zipfile
from pathlib import Path

import yaml

from desd_components.base.errors import UserError

from ..places import PACKAGE as SOURCE
from .pack_rules import refuse_unfit_package, refuse_unfit_source
from .packed_configs import PACKAGE, packed_configs

logger = logging.getLogger(__name__)


COPIED = ("LICENSE", "docs", "models", "configs/metadata.json", "configs/logging.conf")
IGNORED = shutil.ignore_patterns("tools", "__main__.py", "__pycache__", "*.part")
#: of one file, above which a git host or the zoo's checks refuse it
LARGE_FILE_BYTES = 25 * 1024 * 1024
#: the earliest that a zip can hold: the same sources make the same bytes at any time
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def copy_parts(source: Path, target: Path) -> None:
    """The parts of a bundle that are packed as they are, and the package without its tools."""
    (target / "configs").mkdir(parents=True)
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=IGNORED)
        else:
            shutil.copyfile(source / name, target / name)
    shutil.copytree(SOURCE, target / PACKAGE, ignore=IGNORED)


def sorted_files(folder: Path) -> list[Path]:
    """The files of `folder` and below, by name."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.as_posix())


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


def pack_one(source: Path, output: Path, url: str | None = None) -> Path:
    """The packed folder of the bundle `source` in `output`, with its zip beside it.

    Raises:
        UserError: naming the first rule that the bundle breaks, and where.
    """
    refuse_unfit_source(source)
    target = output / source.name
    shutil.rmtree(target, ignore_errors=True)
    copy_parts(source, target)
    for name, config in packed_configs(source).items():
        (target / "configs" / name).write_text(
            json.dumps(config, indent=2) + "\n"
        )  # nothing to protect by atomic writes
    list_large_files(target, url)
    refuse_unfit_package(target)
    archive = write_zip(target)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    logger.info("%s: %.1f MB, sha256 %s", archive, archive.stat().st_size / 1e6, digest)
    return target


def pack(*bundles: str, output: str, checks: bool = False, url: str | None = None) -> None:
    """Write the packed form of each of BUNDLES to OUTPUT/<name> and OUTPUT/<name>.zip.

    Args:
        bundles: such as bundles/desd_pretrain.
        output: a folder; packed bundles of these names in it are replaced.
        checks: true: use each packed bundle in all the ways that its consumers do, on tiny volumes, for some minutes.
        url: the folder from which people download what is larger than 25 MB, for ``large_files.yml``.

    Raises:
        UserError: naming the first rule that a bundle breaks, or the first check that fails.
    """
    if not bundles:
        raise UserError(
            "pack: no bundle named. Say pack bundles/desd_pretrain bundles/desd_seg_finetune --output dist."
        )
    for bundle in bundles:
        packed = pack_one(Path(bundle).resolve(), Path(output).resolve(), url)
        if checks:
            from .pack_checks import check_packed

            check_packed(packed)
