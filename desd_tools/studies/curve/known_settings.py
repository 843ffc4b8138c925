"""The configs of the bundles that a study runs, and whether they have what it sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from desd_components.base.errors import UserError
from desd_components.runs.config import is_known, merged, unknown_setting

from ..roles import BUNDLES
from .study import Study

PRETRAIN, FINETUNE = BUNDLES


def bundle_config(bundle: Path, names: Sequence[str], more: Sequence[Path] = ()) -> ConfigParser:
    """A bundle's configs, each laid over those before."""
    return merged([*(bundle / "configs" / f"{name}.yaml" for name in names), *more])


def refuse_unknown_settings(study: Study, bundles: Path) -> None:
    """Refuse a setting that the config which it is for does not have.

    Raises:
        UserError: naming the setting, where it stands, and the nearest one.
    """
    parsers = [bundle_config(bundles / bundle, study.overlays) for bundle in (PRETRAIN, FINETUNE)]
    parsers.append(bundle_config(bundles / PRETRAIN, (*study.overlays, "evaluate")))
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
        parser = bundle_config(bundles / bundle, configs, more)
        for name in settings:
            if not is_known(parser, name):
                raise UserError(f"{where}: {unknown_setting(parser, name)}")
