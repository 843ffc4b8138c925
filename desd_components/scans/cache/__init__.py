"""Preprocessed volumes on disk, made once and read through memory maps."""
