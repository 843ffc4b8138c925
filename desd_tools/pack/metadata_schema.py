"""What `metadata.json` must be, as a JSON schema.

This is ours, written from the fields that MONAI's bundle specification lists, for packing needs no network: the schema
that the metadata name by address (``meta_schema_20240725.json``) is not part of MONAI's package. It asks for the same
required fields, and for more in one place: exact versions.
"""

from typing import Any

EXACT_VERSION = r"^\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?$"
_TEXT, _VERSION = {"type": "string"}, {"type": "string", "pattern": EXACT_VERSION}
_SIZE = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^[0-9pn*+\- ]+$|^\*$"}]}
_TENSOR = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("type", "format", "modality", "dtype"), _TEXT),
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": _SIZE},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": _TEXT},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}


def _tensors(first: str) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": _TENSOR, "required": [first]}


_TEXTS = ("name", "task", "description", "authors", "copyright", "intended_use", "data_source", "data_type")
METADATA_SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        **dict.fromkeys((*_TEXTS, "image_classes", "label_classes", "pred_classes"), _TEXT),
        **dict.fromkeys(("monai_version", "pytorch_version", "numpy_version"), _VERSION),
        "schema": {"type": "string", "format": "uri"},
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
        "changelog": {"type": "object", "minProperties": 1, "additionalProperties": _TEXT},
        "required_packages_version": {"type": "object", "additionalProperties": _VERSION},
        "eval_metrics": {"type": "object"},
        "references": {"type": "array", "items": _TEXT},
        "network_data_format": {
            "type": "object",
            "properties": {"inputs": _tensors("image"), "outputs": _tensors("pred")},
            "required": ["inputs", "outputs"],
        },
    },
    "required": [
        *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
        *("task", "description", "authors", "copyright", "network_data_format"),
    ],
}
