"""Files of tensors, read as tensors only: PyTorch's own, and safetensors.

Such files are passed from hand to hand, so nothing in them is trusted: no object is built that is not a tensor or a
plain container (`weights_only`), and a file that declares more than it holds is refused before anything of that size is
made.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .errors import UserError, one_line, optional_module
from .files import is_lfs_pointer

NO_SAFETENSORS = "safetensors is not installed: pip install safetensors, or use a .pt file."
#: a key by which a checkpoint of another project is known -> what it is
FOREIGN = {
    "network_weights": "an nnU-Net checkpoint",
    "pytorch-lightning_version": "a Lightning checkpoint",
    "teacher": "a checkpoint with a teacher",
}


@torch.no_grad()
def average_into(kept: Mapping[str, torch.Tensor], moving: Mapping[str, torch.Tensor], momentum: float) -> None:
    """``kept <- momentum * kept + (1 - momentum) * moving``, in place, paired by name; whole numbers are copied."""
    names = [name for name, tensor in kept.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([kept[name] for name in names], [moving[name] for name in names], 1.0 - momentum)
    for name in kept.keys() - names:
        kept[name].copy_(moving[name])


def load_tensors(path: str | Path, allowed: Sequence[type] = ()) -> Any:
    """The content of a ``.safetensors`` file, or of a PyTorch file by `torch.load` with ``weights_only``, on the CPU.

    Args:
        path: of the file.
        allowed: further plain containers that may be in it, such as `argparse.Namespace`.

    Raises:
        UserError: when the file is missing, cannot be read, or holds anything but tensors and plain containers.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file.")
    if is_lfs_pointer(path):
        raise UserError(f"{path}: is a git-LFS pointer, not the weights themselves: fetch them with `git lfs pull`.")
    refuse_odd_archive(path)
    try:
        if Path(path).suffix == ".safetensors":
            return optional_module("safetensors.torch", NO_SAFETENSORS).load_file(path)
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path}: not a readable file of tensors ({_why(error)}). Give a .pt or .safetensors that this project "
            "wrote."
        ) from error


def _why(error: Exception) -> str:
    """Why a file could not be read: the object in it that is no tensor, or the first line of what torch says."""
    other = re.search(r"GLOBAL ([\w.]+)", str(error))
    if other:
        return f"it holds a {other[1]}"
    if str(error).startswith("Weights only load failed"):  # and then advises to load it without that care
        return "it is no file of PyTorch's"
    return (str(error).splitlines() or [type(error).__name__])[0]


def contents(content: Any) -> str:
    """What a file holds, in words for a message: its kind where that is known, and its first keys."""
    if isinstance(content, torch.Tensor):
        return f"a single tensor of shape {tuple(content.shape)}"
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "an empty dict"
    first = ", ".join(str(key) for key in list(content)[:3]) + (", ..." if len(content) > 3 else "")
    kind = next((words for key, words in FOREIGN.items() if key in content), None)
    what = "tensors" if all(isinstance(value, torch.Tensor) for value in content.values()) else "entries"
    return f"{kind} ({first})" if kind else f"{len(content)} {what} ({first})"


def refuse_odd_archive(path: str | Path) -> None:
    """PyTorch writes its files as zip archives: nothing compressed, plain names, and checksums that it never reads.

    Raises:
        UserError: when an entry would grow on reading, leads out of the archive, or is not what its checksum says.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename
                if ".." in Path(name).parts or name.startswith(("/", "\\")):
                    raise UserError(f"{path}: not a file of tensors, for its entry {name!r} leads out of it.")
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise UserError(f"{path}: not a file of tensors as PyTorch writes it, for {name!r} is compressed.")
            altered = altered_entry(archive)
    except UserError:
        raise
    except Exception as error:  # zipfile has no one word for what a wrong bit leads it to
        altered = one_line(error)
    if altered is not None:
        raise UserError(f"{path}: is damaged ({altered}): copy or download it again.")


def altered_entry(archive: zipfile.ZipFile) -> str | None:
    """The first entry that is not what its checksum says; PyTorch writes all as 0 where it is told to do without."""
    return archive.testzip() if any(entry.CRC for entry in archive.infolist()) else None


def flat_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file: a flat dict, each an ordinary tensor with all its values in the file.

    Raises:
        UserError: when it is empty or nested, or holds a tensor of another layout or one that declares more than it
            holds.
    """
    content = load_tensors(path)
    flat = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    )
    if not flat or not content:
        raise UserError(
            f"{path}: not a flat dict of tensors but {contents(content)}. Give the encoder.pt or model.pt of a run."
        )
    refuse_odd_tensors(path, content.items())
    return content


def refuse_odd_tensors(path: str | Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse tensors that networks do not hold.

    Raises:
        UserError: naming the first: sparse, quantised, complex, without values or with NaN among them, or larger than
            what is stored of it.
    """
    for name, tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise UserError(f"{path}: {name} is no ordinary tensor ({tensor.dtype}, {tensor.layout}, {tensor.device}).")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} declares the shape {tuple(tensor.shape)}, but holds far fewer values.")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinite values, of which no network makes sense.")


def differences(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps the tensors `found` from being the tensors `wanted`, for a message; empty when nothing does."""

    def told(names: list[str], what: str, of: int = len(wanted)) -> list[str]:
        return [f"{len(names)} of {of} tensors {what} (first: {names[0]})"] if names else []

    common = [(name, tensor, found[name]) for name, tensor in wanted.items() if name in found]
    shapes = [f"{name} is {tuple(b.shape)}, not {tuple(a.shape)}" for name, a, b in common if a.shape != b.shape]
    kinds = [
        f"{name} is {b.dtype}, not {a.dtype}" for name, a, b in common if a.is_floating_point() != b.is_floating_point()
    ]
    return (
        told([name for name in wanted if name not in found], "are absent")
        + told([name for name in found if name not in wanted], "are left over", len(found))
        + told(shapes, "have another shape")
        + told(kinds, "are of another type")
    )
