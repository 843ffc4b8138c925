"""NRRD and MetaImage, read by SimpleITK; their headers are text, and are looked at before it follows them.

A header says where the voxels lie: behind itself, in a file beside it, in a list or a numbered pattern of files. ITK
goes wherever it is led, and stops at the last voxel of a compressed stream, before the checksum that stands behind it:
what it is led to and what it gives back are checked here.
"""

import itertools
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import UserError, optional_module
from .volume import NOT_INSTALLED, Volume, refuse_rest, refused_as, to_ras

_FIELD = re.compile(rb"\s*([^\r=:]+?)\s*[=:][=:\s]*([^\r]*?)\s*")  # name = value, or name: value
_PATTERN = re.compile(r"([^\s%]*%0?\d{0,2}d[^\s%]*)[ \t]+(\d+)[ \t]+(\d+)[ \t]+(\d+)([ \t]+\d+)?")
_UNIT_FIELDS = ("space units", "units", "DistanceUnits")
_MM = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1e3, "nm": 1e-6}
_MM |= dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"), 1e-3)
_LONGEST_LINE = 1 << 20
_SPARE = 1 << 20  # bytes that a stream may hold beside its voxels, where its header says that it skips some
_SKIPS = {"HeaderSize", "byte skip", "line skip"}
_RESCALED = {"ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "old min", "old max"}
_BODY = re.compile(r"(?i)(right|left)-(anterior|posterior)-(superior|inferior)(-time)?|[RL][AP][SI]T?")  # NRRD's spaces
_SIZES = {"space directions", "spacings", "ElementSpacing", "ElementSize"}


@dataclass(frozen=True)
class Header:
    """What the header of a file says.

    Attributes:
        fields: by name; an NRRD's in small letters.
        end: the byte behind it.
        named: how it names its voxels: ``LOCAL`` where they lie behind it.
        listed: the lines behind it, where that is ``LIST``.
    """

    fields: dict[str, str]
    end: int
    named: str
    listed: tuple[str, ...]

    @property
    def is_compressed(self) -> bool:
        """Whether its voxels are a stream that ends in a checksum."""
        encoding, compressed = self.fields.get("encoding", "").lower(), self.fields.get("CompressedData", "")
        return encoding in ("gz", "gzip") or compressed[:1] in ("T", "t", "1")

    @property
    def is_plain(self) -> bool:
        """Whether its voxels are bytes that stand where they are looked for, from the first on."""
        form = self.fields.get("encoding", self.fields.get("BinaryData", "")).lower()
        return form in ("raw", "true", "1") and not _SKIPS & self.fields.keys()

    @property
    def has_many(self) -> bool:
        """Whether it names a list or a pattern of files."""
        return self.named.startswith("LIST") or "%" in self.named

    def files(self, path: str) -> list[str]:
        """The files with the voxels of the header at `path`, as far as they are there."""
        beside = (os.path.join(os.path.dirname(path), name) for name in self.names())
        return list(itertools.takewhile(os.path.isfile, beside))

    def streams(self, path: str) -> list[tuple[str, int]]:
        """Each file with voxels of the header at `path`, and the byte at which they begin."""
        return [(file, 0) for file in self.files(path)] or [(path, self.end)]

    def names(self) -> Iterator[str]:
        """The files with the voxels, as it calls them, relative to its own folder; none where they lie behind it."""
        if self.named in ("LOCAL", "Local", "local"):
            return iter(())
        if self.named.startswith("LIST"):
            return iter(self.listed)
        if pattern := _PATTERN.fullmatch(self.named):
            first, last, step = (int(number) for number in pattern.groups()[1:4])
            return (pattern[1] % number for number in range(first, last + 1, max(step, 1)))
        return iter((self.named,))


def read_header(path: str) -> Header:
    """The header of an NRRD or MetaImage file.

    Raises:
        UserError: when a line of it is no field, so that ITK might read another header than this.
        OSError: when the file cannot be read.
    """
    is_nrrd = _kind(path) == "NRRD"
    fields: dict[str, str] = {}
    with open(path, "rb") as stream:
        lines = iter(lambda: stream.readline(_LONGEST_LINE), b"")
        for line in itertools.islice(lines, is_nrrd, None):  # an NRRD's first line is its mark
            text = line.rstrip(b"\r\n")
            if is_nrrd and not text:
                break  # and an empty one its end
            field = _FIELD.fullmatch(text)
            if field and not (is_nrrd and text.startswith(b"#")):
                name = field[1].decode("latin-1")
                name = name.lower().replace("datafile", "data file") if is_nrrd else name
                fields[name] = os.fsdecode(field[2])
                if name == "ElementDataFile" or (name == "data file" and fields[name].startswith("LIST")):
                    break  # what follows are voxels, or names of files
            elif b"\r" in text or (text.strip() and not text.startswith(b"#")):
                raise refused_as(_kind(path), path, ValueError(f"{text[:40]!r} is no field of a header"))
        end = stream.tell()
        named = fields.get("data file" if is_nrrd else "ElementDataFile", "LOCAL")
        listed = stream.read(_LONGEST_LINE).split(b"\n") if named.startswith("LIST") else []
    return Header(fields, end, named, tuple(os.fsdecode(name.strip()) for name in listed if name.strip()))


def _kind(path: str) -> str:
    return "MetaImage" if path.endswith((".mha", ".mhd")) else "NRRD"


def data_files(path: str) -> list[str]:
    """The files that the header at `path` keeps its voxels in, as far as they are there; none where it is no header."""
    try:
        return read_header(path).files(path)
    except (OSError, UserError):
        return []


class _Voxels:
    """The voxels of an image as numpy takes them, without a copy; an array of them keeps the image."""

    def __init__(self, sitk: Any, image: Any) -> None:
        self.image, voxels = image, sitk.GetArrayViewFromImage(image)
        place, _ = voxels.__array_interface__["data"]
        self.__array_interface__ = {**voxels.__array_interface__, "data": (place, False)}  # nobody else writes there


def itk_volume(path: str) -> Volume:
    """The header of an NRRD or MetaImage file as a volume.

    Raises:
        UserError: when it cannot be read, or is refused; one line that names it.
    """
    kind = _kind(path)
    sitk = optional_module("SimpleITK", f"{path}: reading {kind} needs SimpleITK, {NOT_INSTALLED}")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(f"{kind[:4].capitalize()}ImageIO")  # whatever the file's first bytes may look like
    reader.SetFileName(path)
    try:
        said = read_header(path)
        _refuse_voxels_elsewhere(path, said)
        reader.ReadImageInformation()
    except (OSError, RuntimeError) as error:
        raise refused_as(kind, path, error) from error
    size, channels = reader.GetSize(), reader.GetNumberOfComponents()
    shape = (*size, channels) if channels > 1 else tuple(size)
    if kind == "MetaImage" and said.has_many and (count := len(list(said.names()))) != size[-1]:
        raise UserError(f"{path}: names {count} files for {size[-1]} slices: copy all of its files, or leave it out.")

    def read() -> np.ndarray:
        streams = said.streams(path)
        each = math.prod(shape) * dtype.itemsize // len(streams)
        if short := [file for file, start in streams if said.is_plain and os.path.getsize(file) < start + each]:
            raise EOFError(f"{os.path.basename(short[0])} ends before its last voxel")  # of several, ITK fills it up
        try:
            array = np.asarray(_Voxels(sitk, reader.Execute()))  # (Z, Y, X), then channels
        except RuntimeError:  # which says in what line of its source, and calls any cause a missing file
            raise OSError("SimpleITK cannot read its voxels to their end") from None
        if said.is_compressed:
            _refuse_damaged(path, said, array)
        elif said.is_plain:
            for file, start in streams:
                with open(file, "rb") as stream:
                    stream.seek(start + each)
                    refuse_rest(stream, size, array.dtype)
        return array.transpose(*reversed(range(len(size))), *range(len(size), array.ndim))

    affine = np.eye(4)
    if len(size) >= 3:  # the fourth axis of a file holds channels; a picture of two is refused for its shape
        direction = np.reshape(reader.GetDirection(), (len(size), len(size)))[:3, :3]
        affine[:3, :3], affine[:3, 3] = direction * reader.GetSpacing()[:3], reader.GetOrigin()[:3]
    one_voxel = sitk.Image([1] * len(size), reader.GetPixelID(), channels)  # it tells the type of the values
    dtype = sitk.GetArrayViewFromImage(one_voxel).dtype
    unit, warnings = _unit(path, said)
    affine[:3] *= unit
    return Volume(path, kind, shape, to_ras(affine), dtype, read, (*warnings, *_untold(said, kind)))


def _untold(said: Header, kind: str) -> Iterator[str]:
    """What a header leaves open, and how it is taken; what of it ITK passes over."""
    if not _SIZES & said.fields.keys():
        yield "says nothing of the size of its voxels, taken for 1 mm"
    space = said.fields.get("space", "")
    if kind == "NRRD" and not _BODY.fullmatch(space):
        yield f"its space ({space or 'none'}) names no direction of a body: taken for LPS, as ITK does"
    if _RESCALED & said.fields.keys():
        yield "says how to rescale its values, which ITK passes over: taken as stored"


def _unit(path: str, said: Header) -> tuple[float, tuple[str, ...]]:
    """How many mm the unit is in which a header counts, and what to say of it; 1 where it names none that is known."""
    named = next((said.fields[name] for name in _UNIT_FIELDS if name in said.fields), "")
    words = [word.strip().lower() for word in re.findall(r'"([^"]*)"', named) or [named]]
    found = {_MM[word] for word in words if word in _MM}
    if len(found) > 1:
        raise UserError(f"{path}: counts in several units, {named}: write it in mm.")
    unit = found.pop() if found else 1.0
    told = f"counts in {named}, {unit:g} mm" if unit != 1 else f"counts in {named}, taken for mm"
    is_odd = unit != 1 or not (set(words) <= {"", "?", "???", *_MM})
    return unit, (f"{told}; ITK and 3D Slicer take any unit for mm",) if is_odd else ()


def _refuse_voxels_elsewhere(path: str, said: Header) -> None:
    """Refuse a header whose voxels are missing, or outside of its folder: it has no business there, see SECURITY.md."""
    if said.fields.get("encoding", "").lower() in ("bz2", "bzip2"):
        raise UserError(f"{path}: is compressed with bzip2, which SimpleITK does not read: write it with gzip.")
    if "%" in said.named and not _PATTERN.fullmatch(said.named):
        what = f"{said.named!r} is no pattern of files with the first number, the last and the step"
        raise UserError(f"{path}: {what}: write such as s%03d.raw 1 20 1, or LIST and a line for each file.")
    for name in said.names():
        if os.path.isabs(name) or name[1:2] == ":" or ".." in Path(name).parts:
            what = f"its voxels are said to lie in {name!r}, outside of its folder"
            raise UserError(f"{path}: {what}: put them beside it.")
        if not os.path.isfile(os.path.join(os.path.dirname(path), name)):
            raise UserError(f"{path}: its voxels, {name}, are not there: copy all of its files, or leave it out.")


def _refuse_damaged(path: str, said: Header, voxels: np.ndarray) -> None:
    """Compare voxels with the checksum of the stream that they come from.

    It is that of the bytes as they lie in memory, unless the file has them in another order, or in several streams:
    then all of it is inflated once more, and the bytes are compared.

    Args:
        path: of the header.
        said: what it says.
        voxels: (Z, Y, X) or (Z, Y, X, C), as SimpleITK gives them.

    Raises:
        OSError, EOFError, ValueError, zlib.error: when they do not agree, or a stream ends before its checksum.
    """
    streams = said.streams(path)
    if len(streams) == 1 and _ends_in_checksum_of(voxels, *streams[0]):
        return
    content, limit = bytearray(), voxels.nbytes + (_SPARE if _SKIPS & said.fields.keys() else 0)
    for file, start in streams:
        for part in _inflated(file, start):
            content += part
            if len(content) > limit:
                raise ValueError("it holds more voxels than its header says")
    orders = [voxels, np.moveaxis(voxels, -1, 0)] if voxels.ndim == 4 else [voxels]
    stored = [each.tobytes() for order in orders for each in (order, order.byteswap())]
    if not any(content.startswith(each) or content.endswith(each) for each in stored):
        raise ValueError("SimpleITK reads other voxels than it holds")


def _ends_in_checksum_of(voxels: np.ndarray, file: str, start: int) -> bool:
    with open(file, "rb") as stream:
        stream.seek(start)
        is_gzip = stream.read(2) == b"\x1f\x8b"
        stream.seek(-8, os.SEEK_END)
        end = stream.read(8)
    if is_gzip:
        return end == struct.pack("<2L", zlib.crc32(voxels.data), voxels.nbytes & 0xFFFFFFFF)
    return end[4:] == struct.pack(">L", zlib.adler32(voxels.data))


def _inflated(file: str, start: int) -> Iterator[bytes]:
    with open(file, "rb") as stream:
        stream.seek(start)
        inflater = zlib.decompressobj(47)  # gzip's or zlib's, as its first bytes say
        for chunk in iter(lambda: stream.read(1 << 16), b""):
            yield inflater.decompress(chunk)
            while inflater.eof:
                if not inflater.unused_data.startswith(b"\x1f\x8b"):
                    return
                rest, inflater = inflater.unused_data, zlib.decompressobj(47)  # gzip's streams may follow one another
                yield inflater.decompress(rest)
    raise EOFError(f"{os.path.basename(file)} ends before its checksum")
