"""nnU-Net's plans, as far as a pre-training follows them: which encoder, on which preprocessed cases.

The form is that of nnU-Net 2.3 and later (Isensee et al., Nature Methods 2021; github.com/MIC-DKFZ/nnUNet).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...base.errors import UserError
from ...base.files import read_json
from ..lists import scans_of_sections
from ..names import NNUNET_SUFFIXES, Scan

#: nnU-Net's network -> its encoder
ENCODERS = {"PlainConvUNet": "PlainConvEncoder", "ResidualEncoderUNet": "ResidualEncoder"}
DECODER = {"n_conv_per_stage_decoder", "deep_supervision"}
SMALLER = 1.4  # how much larger than a view the median volume is to be


class NnunetPlans:
    """One configuration of nnU-Net's plans.

    Args:
        path: ``nnUNetPlans.json`` or another plans file, in the folder of a data set in ``nnUNet_preprocessed``.
        configuration: such as "3d_fullres".

    Raises:
        UserError: when the file is no plans, has no such configuration, or one without a 3D encoder of stages.

    Attributes:
        folder: where the preprocessed cases lie.
        network: ``network_class_name``, ``arch_kwargs`` and ``_kw_requires_import`` of the whole network.
        encoder: the architecture of its encoder, as `encoder_from` takes it.
        in_channels: of a case.
        patch_size: voxels of a patch, along the axes of the arrays.
        identity: what tells volumes preprocessed by these plans from others, for a manifest.
    """

    def __init__(self, path: str | Path | None, configuration: str = "3d_fullres") -> None:
        if path is None:
            raise UserError("nnunet_plans: null. Name nnU-Net's plans: --nnunet_plans DATASET/nnUNetPlans.json.")
        content = read_json(Path(path).expanduser())
        known = content.get("configurations") if isinstance(content, dict) else None
        if not isinstance(known, dict):
            raise UserError(f"{path}: is no plans of nnU-Net's: give the nnUNetPlans.json in nnUNet_preprocessed.")
        if configuration not in known:
            raise UserError(f"{path}: has no configuration {configuration!r}: choose one of {', '.join(known)}.")
        found = _inherited(known, configuration)
        self.path, self.configuration = Path(path).expanduser().absolute(), configuration
        if "architecture" not in found:
            raise UserError(f"{path}: is of an nnU-Net before 2.3: plan again, with `nnUNetv2_plan_experiment`.")
        self.network: dict[str, Any] = found["architecture"]
        self.patch_size, self.spacing = list(found["patch_size"]), list(found["spacing"])
        self.median_size = found["median_image_size_in_voxels"]
        self.in_channels = len(found["normalization_schemes"])
        kind = str(self.network["network_class_name"]).rpartition(".")[2]
        if kind not in ENCODERS or len(self.patch_size) != 3:
            told = f"plans a {kind} of {len(self.patch_size)} dimensions"
            raise UserError(f"{path}: {configuration} {told}: take a 3D one of {' or '.join(ENCODERS)}.")
        arguments = {name: value for name, value in self.network["arch_kwargs"].items() if name not in DECODER}
        self.encoder = {"network": ENCODERS[kind], "in_channels": self.in_channels, **arguments}
        self.dataset_name = str(content["dataset_name"])
        self.folder = str(self.path.parent / found["data_identifier"])
        self.identity = {"dataset_name": self.dataset_name, "plans_name": content["plans_name"]}
        self.identity |= {"configuration": configuration, "spacing": self.spacing}
        self.identity["normalization_schemes"] = found["normalization_schemes"]

    def view_size(self, wanted: Sequence[int] | None = None) -> list[int]:
        """Voxels of a view: whole cells of the deepest stage, within a patch.

        Args:
            wanted: at least so many, as a plan of ours says; None takes what the median volume exceeds along each axis.
        """
        least = wanted or [size / SMALLER for size in self.median_size]
        strides = zip(*([s] * 3 if isinstance(s, int) else s for s in self.encoder["strides"]), strict=True)
        cells = [math.prod(steps) for steps in strides]
        turn = math.ceil if wanted else math.floor
        sides = [max(1, turn(side / cell)) * cell for side, cell in zip(least, cells, strict=True)]
        return [min(side, patch) for side, patch in zip(sides, self.patch_size, strict=True)]

    def scans(
        self,
        folder: str | Path,
        data_split: str | Path | None = None,
        sections: Sequence[str] = ("train", "validation"),
    ) -> list[Scan]:
        """The preprocessed cases, without their segmentations; see `find_scans` for `data_split` and `sections`.

        Raises:
            UserError: when `folder` is not the one of these plans, or holds no case.
        """
        given = Path(folder).expanduser().absolute()
        known = {
            "configuration": (given.name, Path(self.folder).name),
            "data set": (given.parent.name, self.dataset_name),
        }
        for name, (theirs, ours) in known.items():
            if theirs != ours:
                raise UserError(
                    f"{folder}: is {theirs!r}, of another {name} than {self.path.name}, which says {ours!r}: leave "
                    "dataset_dir out, or give the plans that made this folder."
                )
        files = [path for suffix in NNUNET_SUFFIXES for path in sorted(given.glob(f"*{suffix}"))]
        images = {path.stem: path for path in reversed(files) if not path.stem.endswith("_seg")}
        if not images:
            number, c = self.dataset_name[7:10], self.configuration
            raise UserError(f"{folder}: no preprocessed case: run `nnUNetv2_preprocess -d {number} -c {c}` first.")
        scans: list[Scan] = [{"image": str(images[name])} for name in sorted(images)]
        return scans if data_split is None else scans_of_sections(data_split, given, scans, sections)


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits from others."""
    own = configurations[name]
    return {**_inherited(configurations, own["inherits_from"]), **own} if "inherits_from" in own else dict(own)
