"""Fetch a task of the Medical Segmentation Decathlon, with MONAI's downloader and MONAI's table of addresses.

Differs from `monai.apps.DecathlonDataset(download=True)`: the archive is unpacked beside its place and takes its name
only when it is whole (MONAI takes half a folder for a whole one), the download is staged where it will lie and not in
the system's temporary folder, and whatever goes wrong is one line.
"""

import errno
import logging
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError

from desd_components.base.errors import UserError

logger = logging.getLogger(__name__)


LICENCE = (
    "%s is licensed CC-BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0): name the Medical Segmentation "
    "Decathlon (Antonelli et al., Nature Communications 2022), and pass on what you derive from it on the same terms."
)
KIDNEY = (
    "the kidneys (KiTS) are no task of the Decathlon. Fetch them from https://kits19.grand-challenge.org, under the "
    "terms that stand there; docs/seven_tasks.md says how the folder is used."
)


def download(task: str, dir: str = "data", keep_archive: bool = False) -> Path:
    """Fetch TASK of the Medical Segmentation Decathlon (licence: CC-BY-SA 4.0), such as Task04_Hippocampus.

    Args:
        task: its name, whole or in part: Task04_Hippocampus, Task04, hippocampus.
        dir: the folder that gets a folder of the task's name.
        keep_archive: leave the .tar there as well.

    Raises:
        UserError: when no task has that name, the network or the disk fails, or the archive is not the one expected.
    """
    from monai.apps import DecathlonDataset

    name = task_name(str(task), list(DecathlonDataset.resource))
    folder = Path(dir) / name
    logger.info(LICENCE, name)
    if (folder / "dataset.json").is_file():
        logger.info("%s: is there already", folder)
        return folder
    if folder.exists():
        raise UserError(f"{folder}: exists, but is no complete {name} (no dataset.json). Move it away, then try again.")
    with _failures_in_one_line(name, Path(dir)), _monai_silent(), _staged_in(Path(dir)):
        archive = _fetch(DecathlonDataset.resource[name], Path(dir) / f"{name}.tar", DecathlonDataset.md5[name])
        _unpack(archive, folder)
    if not keep_archive:
        archive.unlink()
    logger.info("%s: %d files", folder, sum(path.is_file() for path in folder.rglob("*")))
    return folder


def task_name(asked: str, tasks: list[str]) -> str:
    """The one of `tasks` that `asked` names, whole or by a part of it, in any case of letters.

    Raises:
        UserError: when it names none of them, or several.
    """
    if any(word in asked.lower() for word in ("kits", "kidney")):
        raise UserError(f"{asked}: {KIDNEY}")
    wanted = asked.lower().replace("_", "")
    found = [name for name in tasks if wanted and wanted in name.lower().replace("_", "")]
    if len(found) != 1:
        what = "may be " + " or ".join(found) if found else "is no task of the Decathlon"
        raise UserError(f"{asked!r} {what}. Choose one of: {', '.join(tasks)}.")
    return found[0]


def _fetch(url: str, archive: Path, md5: str) -> Path:
    """The archive, downloaded with a progress bar unless it lies there already; its checksum is right."""
    from monai.apps import download_url

    download_url(url, archive, hash_val=md5, hash_type="md5")
    if not archive.is_file():  # MONAI passes over a PermissionError
        raise UserError(f"{archive}: cannot be written. Choose another folder: --dir.")
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack into a folder beside `folder`, look whether it is what it should be, and give it the name."""
    from monai.apps import extractall

    with tempfile.TemporaryDirectory(prefix=".unpacking-") as beside:
        extractall(archive, beside)  # refuses links, and names that lead out of the folder
        inside = Path(beside) / folder.name
        if not (inside / "dataset.json").is_file():
            raise UserError(f"{archive}: holds no {folder.name}/dataset.json. Delete it, then download again.")
        inside.rename(folder)


@contextmanager
def _failures_in_one_line(name: str, folder: Path) -> Iterator[None]:
    """Whatever MONAI, the network, the disk or the archive raises becomes a `UserError`."""
    from monai.apps.utils import HashCheckError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except UserError:
        raise
    except HashCheckError as error:
        raise UserError(
            f"{name}: its checksum (MD5) is not the one that MONAI knows, so that it is damaged or another file. "
            f"Delete {folder / name}.tar where it exists, and download again."
        ) from error
    except HTTPError as error:
        raise UserError(f"{name}: {error.url} answered {error.code} {error.reason}. Try again later.") from error
    except (URLError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"{name}: the download failed ({getattr(error, 'reason', error)}). Is there a network? A folder that was "
            f"fetched elsewhere can be put to {folder / name}."
        ) from error
    except (tarfile.TarError, EOFError, ValueError) as error:  # ValueError: a link, or a name that leads out
        raise UserError(f"{name}: the archive is refused ({error}). Nothing of it was kept.") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        free = f"the disk is full, {shutil.disk_usage(folder).free / 1e9:.1f} GB are free" if full else error.strerror
        raise UserError(f"{name}: cannot write to {folder} ({free}). Choose another folder: --dir.") from error


@contextmanager
def _monai_silent() -> Iterator[None]:
    """Keep MONAI's own lines about the same failure, which go to the standard output, from being printed as well."""
    monai_logger = logging.getLogger("monai.apps")
    before, monai_logger.disabled = monai_logger.disabled, True
    try:
        yield
    finally:
        monai_logger.disabled = before


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Temporary files lie in `folder`: the system's place for them is often too small for a whole task."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
