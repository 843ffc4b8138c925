"""DICOM series and DICOM-SEG: an optional room, entered through `desd_components.scans.volume.dicom_room` alone."""

from .seg import SaveDicomSegd
from .series import series_at, series_paths
from .volume import dicom_volume

__all__ = ["SaveDicomSegd", "dicom_volume", "series_at", "series_paths"]
