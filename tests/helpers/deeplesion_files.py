"""A folder of DeepLesion as it is published: 16-bit PNG slices and a table."""

from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
    "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,"
    "Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test"
)
ROW = (
    '{name}_{key:03d}.png,{patient},{study},{series},{key},"1, 1, 2, 2, 1, 2, 2, 1","1, 1, 2, 2","1.5, 1.2",'
    '"0.4, 0.5, 0.6",-1,0,"{first}, {last}","0.75, 0.7, 5","7, 6","-175, 275",F,62,1'
)


def hu(number: int) -> np.ndarray:
    """A slice (rows, columns) whose HU say where a pixel lies and which slice it is on."""
    rows, columns = np.mgrid[:6, :7]
    return 100 * rows + 10 * columns + number - 1000


def write_slices(folder: Path, name: str, numbers: list[int]) -> None:
    (folder / "Images_png" / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        stored = (hu(number) + 32768).astype(np.uint16)
        Image.fromarray(stored).save(folder / "Images_png" / name / f"{number:03d}.png")
