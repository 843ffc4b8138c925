"""Pictures that a run leaves for its page: files in ``pictures/``, and beside them a list of what each shows.

They are data, as metrics are: the page is made of them when the run ends, and can be made again by `report`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.files import write_json

FOLDER = "pictures"


@dataclass(frozen=True)
class Picture:
    """A picture's file name within ``pictures/``, and its words, all of them plain text.

    One of several `slices`, which lie one below the other, is leafed through, from the slice `first` on.
    """

    file: str
    title: str
    caption: str
    alt: str
    slices: int = 1
    first: int = 0


class Album:
    """The pictures of one part of a run, such as "evaluation"; those of an earlier run of that part are replaced.

    Args:
        output_dir: the run's folder.
        part: the beginning of the files' names; a scan's own name stands in the list only, for it may hold anything.
    """

    def __init__(self, output_dir: str | Path, part: str) -> None:
        self.folder, self.part, self.pictures = Path(output_dir) / FOLDER, part, list[Picture]()

    def add(
        self, draw: Callable[[Path], object], title: str, caption: str, alt: str, slices: int = 1, first: int = 0
    ) -> None:
        """Let `draw` write a PNG, or a JPEG of several slices, at the path that it is given, and keep the words."""
        file = f"{self.part}_{len(self.pictures) + 1}{'.jpg' if slices > 1 else '.png'}"
        self.folder.mkdir(parents=True, exist_ok=True)
        draw(self.folder / file)
        self.pictures.append(Picture(file, title, caption, alt, slices, first))

    def add_figure(self, figure: Any, title: str, caption: str, alt: str) -> None:
        """The same, of a figure of matplotlib's with slices on black."""
        self.add(lambda path: figure.savefig(path, dpi=128, facecolor="black"), title, caption, alt)

    def close(self) -> None:
        """Write the list, and delete what an earlier run of this part left beyond it."""
        if not self.pictures and not self.folder.is_dir():
            return
        write_json(self.folder / f"{self.part}.json", [asdict(picture) for picture in self.pictures])
        kept = {picture.file for picture in self.pictures}
        for old in self.folder.glob(f"{self.part}_*.*"):
            if old.name not in kept:
                old.unlink()


def read_pictures(output_dir: str | Path, part: str) -> Sequence[Picture]:
    """The pictures of a part whose files are there; none where the run drew none.

    Raises:
        UserError: when the list is damaged.
    """
    path = Path(output_dir) / FOLDER / f"{part}.json"
    if not path.is_file():
        return []
    try:
        found = [Picture(**entry) for entry in json.loads(path.read_text("utf-8"))]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: is no list of pictures ({error}). Delete the folder {path.parent}.") from error
    return [picture for picture in found if (path.parent / picture.file).is_file()]
