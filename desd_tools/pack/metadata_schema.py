"""What `metadata.json` must be, as a JSON schema.

This is ours, written from the fields that MONAI's bundle specification lists, for packing needs no network: the schema
that the metadata name by address (``meta_schema_20240725.json``) is not part of MONAI's package. It asks for the same
required fields, and for more in one place: exact versions.
"""

from __future__ import annotations

from typing import Any

_VERSION = {"type": "string", "pattern": r"^\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?$"}
_VERSIONS = {"type": "object", "additionalProperties": _VERSION}
_TENSOR = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "format": {"type": "string"},
        "modality": {"type": "string"},
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {
            "type": "array",
            "items": {
                "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^[0-9pn*+\- ]+$|^\*$"}]
            },
        },
        "dtype": {"type": "string"},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}
_TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": _TENSOR}
METADATA_SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "schema": {"type": "string", "format": "uri"},
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
        "changelog": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
        "monai_version": _VERSION,
        "pytorch_version": _VERSION,
        "numpy_version": _VERSION,
        "required_packages_version": _VERSIONS,
        **{
            name: {"type": "string"} for name in ("name", "task", "description", "authors", "copyright", "intended_use")
        },
        **{name: {"type": "string"} for name in ("data_source", "data_type")},
        **{name: {"type": "string"} for name in ("image_classes", "label_classes", "pred_classes")},
        "eval_metrics": {"type": "object"},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "properties": {
                "inputs": {**_TENSORS, "required": ["image"]},
                "outputs": {**_TENSORS, "required": ["pred"]},
            },
            "required": ["inputs", "outputs"],
        },
    },
    "required": [
        "schema",
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
        "authors",
        "copyright",
        "network_data_format",
    ],
}
