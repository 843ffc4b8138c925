"""DICOM series and DICOM-SEG: an optional room, imported when a file asks for it."""
