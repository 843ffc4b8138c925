"""Solids drawn on a voxel grid with partial volume: the geometry under the phantom.

Where from: ours. Each voxel is cut into 2 x 2 x 2 sub-voxels; a sub-voxel belongs to the last solid that covers its
middle, and a voxel's value is the mean over its sub-voxels, as a scanner's is over the tissue in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SUBVOXELS = 2  # per axis
WARP_REACH = 6.0  # mm; a warp moves no point farther


@dataclass
class Solid:
    """One solid of one tissue.

    Args:
        inside: points (3, n) in mm -> boolean (n,).
        center, reach: a ball around it in mm, so that only its box of the grid is looked at.
        hu, texture: mean value and standard deviation of its texture, in HU.
        label: class index, 0 for background.
        within: names of the tissues that it may replace; empty: any.
    """

    name: str
    inside: Callable[[np.ndarray], np.ndarray]
    center: np.ndarray
    reach: float
    hu: float
    texture: float = 4.0
    label: int = 0
    within: tuple[str, ...] = ()


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix from angles about x, y and z, in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def ellipsoid(center: np.ndarray, radii: np.ndarray, turn: np.ndarray, power: float = 2.0) -> Callable:
    """Inside of a (super-)ellipsoid; a radius beyond the grid makes it a cylinder."""
    frame = (turn / radii).T.astype(np.float32)  # rows: the axes, each divided by its radius

    def inside(points: np.ndarray) -> np.ndarray:
        local = np.abs(frame @ (points - center[:, None].astype(np.float32)))
        return np.square(local).sum(0) < 1 if power == 2.0 else (local**power).sum(0) < 1

    return inside


def tube(start: np.ndarray, end: np.ndarray, radius: float) -> Callable:
    """Inside of a straight tube with round ends."""
    line = (end - start).astype(np.float32)

    def inside(points: np.ndarray) -> np.ndarray:
        offset = points - start[:, None].astype(np.float32)
        along = np.clip((line @ offset) / (line @ line), 0, 1)
        return np.square(offset - line[:, None] * along).sum(0) < radius**2

    return inside


def paint(
    solids: list[Solid], affine: np.ndarray, shape: tuple[int, ...], warp: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Draw the solids in their order: for each sub-voxel 0 (air) or 1 + the index of the last solid that covers it."""
    fine = np.array(shape) * SUBVOXELS
    fine_affine = affine @ np.diag([1 / SUBVOXELS] * 3 + [1.0])
    fine_affine[:3, 3] = affine[:3, 3] - affine[:3, :3] @ np.full(3, 0.5 - 0.5 / SUBVOXELS)
    to_grid, spacing = np.linalg.inv(fine_affine), np.linalg.norm(fine_affine[:3, :3], axis=0)
    grid = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in fine], indexing="ij"))
    straight = np.einsum("ij,jxyz->ixyz", fine_affine[:3, :3].astype(np.float32), grid)
    points = warp((straight + fine_affine[:3, 3].astype(np.float32)[:, None, None, None]).reshape(3, -1))
    points = points.reshape(3, *fine)
    number = {solid.name: n for n, solid in enumerate(solids, start=1)}
    tissue = np.zeros(fine, np.uint8)
    for n, solid in enumerate(solids, start=1):
        middle = to_grid[:3, :3] @ solid.center + to_grid[:3, 3]
        half = (solid.reach + WARP_REACH) / spacing
        low = np.clip(np.floor(middle - half), 0, fine).astype(int)
        high = np.clip(np.ceil(middle + half) + 1, 0, fine).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        covered = solid.inside(points[:, *box].reshape(3, -1)).reshape(tissue[box].shape)
        if solid.within:
            covered &= np.isin(tissue[box], [number[name] for name in solid.within])
        tissue[box][covered] = n
    return tissue


def average(fine: np.ndarray) -> np.ndarray:
    """Mean over each voxel's sub-voxels: (2X, 2Y, 2Z) -> (X, Y, Z)."""
    x, y, z = (n // SUBVOXELS for n in fine.shape)
    return fine.reshape(x, SUBVOXELS, y, SUBVOXELS, z, SUBVOXELS).mean(axis=(1, 3, 5), dtype=np.float32)
