"""Whether the configs of the bundles have what a study sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError

from .study import Study

PRETRAIN, FINETUNE = "desd_pretrain", "desd_seg_finetune"


def merged(bundle: Path, configs: Sequence[str], more: Sequence[Path] = ()) -> Any:
    """A bundle's configs, each laid over those before, as a parser."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f"{name}.yaml") for name in configs] + [str(path) for path in more])
    return parser


def refuse_unknown_settings(study: Study, bundles: Path) -> None:
    """Refuse a setting that the config which it is for does not have.

    Raises:
        UserError: naming the setting, where it stands, and the nearest one.
    """
    from desd_components.runs.config import is_known, unknown_setting

    parsers = [merged(bundles / bundle, study.overlays) for bundle in (PRETRAIN, FINETUNE)]
    parsers.append(merged(bundles / PRETRAIN, (*study.overlays, "evaluate")))
    for name in study.common:
        if not any(is_known(parser, name) for parser in parsers):
            raise UserError(f"common: {unknown_setting(parsers[1], name)}")
    parts: list[tuple[str, str, Mapping[str, Any], Sequence[str], Sequence[Path]]] = [
        ("evaluation", FINETUNE, study.evaluation, (*study.overlays, "evaluate"), ())
    ]
    parts += [(f"arms, {a.name}", FINETUNE, a.settings, study.overlays, a.overlays) for a in study.arms.values()]
    parts += [
        (f"pretraining, {p.name}", PRETRAIN, p.settings, study.overlays, p.overlays) for p in study.pretraining.values()
    ]
    for where, bundle, settings, configs, more in parts:
        parser = merged(bundles / bundle, configs, more)
        for name in settings:
            if not is_known(parser, name):
                raise UserError(f"{where}: {unknown_setting(parser, name)}")
