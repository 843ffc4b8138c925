"""Features of whole scans: one vector for each stage, and maps coloured by their principal components.

The encoder slides over a scan in windows of the size that it was trained on, so that memory does not grow with the
scan; the stage maps of all windows are stitched, each at its own resolution, and averaged into a vector each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import PathLike
from monai.data import MetaTensor
from monai.data.folder_layout import FolderLayoutBase
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.inferers import SlidingWindowInferer
from monai.utils.enums import CommonKeys

from ..base.encoders import Encoder

PLANES = ("sagittal", "coronal", "axial")


class StageInferer(SlidingWindowInferer):
    """Sliding windows over a scan (1, C, X, Y, Z) -> its stage maps, each (1, C_s, X_s, Y_s, Z_s).

    Takes the arguments of MONAI's `SlidingWindowInferer`.
    """

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        """Stage maps of all windows that `network`, an encoder, makes, stitched."""
        encoder: Encoder = network
        return super().__call__(inputs, lambda window: tuple(encoder.stages(window)), *args, **kwargs)


def principal_colors(features: torch.Tensor) -> np.ndarray:
    """Red, green, blue = the first three principal components of a map (C, X, Y, Z): (X, Y, Z, 3) in 0 to 1.

    Each component is scaled from its 2nd to its 98th percentile; its sign is chosen so that its skew is positive, for
    the sign of a principal component means nothing.
    """
    channels, *shape = features.shape
    flat = features.reshape(channels, -1).double().T
    flat = flat - flat.mean(dim=0)
    rank = min(3, *flat.shape)
    _, _, directions = torch.linalg.svd(flat.T @ flat)
    scores = flat @ directions[:rank].T
    scores = scores * torch.sign(scores.pow(3).mean(dim=0) + 1e-30)
    low, high = torch.from_numpy(np.percentile(scores.numpy(), (2, 98), axis=0))  # torch's own takes no large maps
    scaled = ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    colors = torch.zeros(len(flat), 3, dtype=scaled.dtype)
    colors[:, :rank] = scaled
    return colors.reshape(*shape, 3).numpy()


def draw_feature_maps(
    image: np.ndarray, maps: Sequence[torch.Tensor], path: PathLike, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> None:
    """Draw the mid-slices of a scan and of its stage maps, coloured by their first three principal components.

    Args:
        image: (X, Y, Z), on the grid that the network saw.
        maps: the stage maps, (C, X, Y, Z) each.
        path: the PNG.
        spacing: mm along x, y, z.
    """
    from matplotlib.figure import Figure  # late: drawing is asked for

    figure = Figure(figsize=(2.4 * (1 + len(maps)), 7.4), layout="constrained", facecolor="black")
    low, high = np.percentile(image, (1, 99))  # so that a few bright voxels do not darken the rest
    panels = [((image - low) / max(high - low, 1e-12)).clip(0, 1), *(principal_colors(stage) for stage in maps)]
    titles = ["scan", *(f"stage {number}" for number in range(1, len(maps) + 1))]
    sizes = np.array(image.shape) * np.array(spacing)  # mm
    for row, all_axes in enumerate(figure.subplots(3, len(panels), squeeze=False)):
        across = [axis for axis in range(3) if axis != row]
        extent = (0, sizes[across[0]], 0, sizes[across[1]])
        for axes, panel, title in zip(all_axes, panels, titles, strict=True):
            middle = panel.take(panel.shape[row] // 2, row)
            axes.imshow(middle.swapaxes(0, 1), origin="lower", extent=extent, cmap="gray", interpolation="nearest")
            axes.set_title(f"{PLANES[row]}: {title}", color="white", fontsize=8)
            axes.axis("off")
    figure.savefig(path, dpi=90)


def stage_maps(engine: Workflow) -> tuple[MetaTensor, str, list[torch.Tensor]]:
    """What an encoder made of the one scan at hand: its image, its file, and the maps, each (C, X, Y, Z)."""
    image, maps = engine.state.output[CommonKeys.IMAGE], engine.state.output[CommonKeys.PRED]
    name = image.meta["filename_or_obj"]
    name = str(name[0] if isinstance(name, list | tuple) else name)
    return image, name, [stage[0].as_subclass(torch.Tensor).float().cpu() for stage in maps]


class SaveFeaturesHandler:
    """Write what an encoder makes of each scan: ``<scan>.npz`` with the vectors ``stage_1``, ``stage_2``, and so on.

    Args:
        layout: where the file of a scan goes.
    """

    def __init__(self, layout: FolderLayoutBase) -> None:
        self.layout = layout

    def attach(self, engine: Workflow) -> None:
        """Write when the network has seen a scan, within the guard of the iteration."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Write the features of the scan at hand."""
        _, name, maps = stage_maps(engine)
        vectors = {f"stage_{i}": stage.mean(dim=(1, 2, 3)).numpy() for i, stage in enumerate(maps, start=1)}
        np.savez(self.layout.filename(subject=name), allow_pickle=False, **vectors)


class DrawFeaturesHandler(SaveFeaturesHandler):
    """Draw the maps instead; see `draw_feature_maps`."""

    def __call__(self, engine: Workflow) -> None:
        """Draw those of the scan at hand."""
        image, name, maps = stage_maps(engine)
        volume = image[0, 0].as_subclass(torch.Tensor).float().cpu().numpy()
        draw_feature_maps(volume, maps, self.layout.filename(subject=name), image.pixdim[0].tolist())
