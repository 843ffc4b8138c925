"""Which state a run goes on from, and whether it may: with the same settings and tensors, or longer when told so."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..base.errors import UserError, require_one_of, require_whole
from ..base.tensors import differences
from .bundle import calling_config
from .command import TRACKING_SETTINGS
from .config import Place, id_of, parts_of, plain, walk
from .state import StatePair, state_to_resume

#: entries of a config that change no step of a run, in both bundles; what comes of them is compared as facts
MAY_DIFFER = (
    # what is around the run
    *("imports", "initialize", "run", "training", "finalize"),
    # places, and which scans of them: compared as data
    *("bundle_root", "dataset_dir", "data_split", "on_bad_volume", "output_dir", "cache_dir"),
    # how it goes on: the schedules are compared as max_epochs
    *("resume", "extend"),
    # machines: the volumes or crops of a step are compared as total_batch
    *("device", "cudnn_benchmark", "network", "num_workers", "batch_size", "optimizer#fused"),
    *("compile", "train#trainer#compile"),
    # what is looked at, written down and saved, and when a run that goes wrong is stopped
    *("page", "run_folder", "train#handlers", "handlers#skip#max_skipped_steps"),
)

TOLD, TOLD_LENGTH = 20, 80  # of settings that differ, and characters of a value
EXTENSIONS = (None, "keep", "stretch")


def scheduled_epochs(output_dir: str | Path, resume: str, extend: str | None, max_epochs: int) -> int:
    """The epochs that the schedules of a run are made for: `max_epochs`, unless a longer run keeps its first plan.

    A run that goes on with another `max_epochs` is refused, for its schedules would shift. `extend` says how it may:

    - "keep": the schedules run as first planned; in the added epochs they stay at their last values. Nothing changes at
      the seam.
    - "stretch": from the seam on, the schedules are those of the longer run: optimiser step s gets what a run of
      `max_epochs` epochs would have given it at s. Steps and optimiser state go on, what was learnt stays as it is,
      and learning rate and teacher momentum jump at the seam from the shorter curve to the longer one: at the end of
      a cosine, back up to its middle. Parameter groups that are frozen at the start stay so only for the number of
      steps first planned.

    Where there is no state to go on from, both mean a plain run of `max_epochs`.

    Raises:
        UserError: when `extend` is no such word, or `max_epochs` is fewer than the schedules were made for.
    """
    require_one_of(EXTENSIONS, extend=extend)
    require_whole(0, max_epochs=max_epochs)
    if extend != "keep":
        return max_epochs
    found = state_to_resume(StatePair(output_dir), str(resume))
    if found is None:
        return max_epochs
    path, state = found
    planned = int(state["settings"]["max_epochs"])
    if max_epochs < planned:
        raise UserError(f"{path}: extend adds epochs, but max_epochs={max_epochs} is fewer than the planned {planned}.")
    return planned


def refuse_other_run(
    path: Path, state: Mapping[str, Any], settings: Mapping[str, Any], objects: Mapping[str, Any], extend: str | None
) -> None:
    """Compare a run with the one that left a state: its settings, its parts, and the tensors of its modules.

    Args:
        path, state: as `state_to_resume` has them.
        settings, objects: of the run, as a `ResumeHandler` has them.
        extend: see `scheduled_epochs`.

    Raises:
        UserError: listing what differs.
    """
    before = {**state["settings"], "batches of an epoch": state["epoch_length"]}
    differing = {name for name in {*before, *settings} if before.get(name) != settings.get(name)}
    is_longer = "max_epochs" in differing and settings.get("max_epochs", 0) > before.get("max_epochs", 0)
    if is_longer and extend == "stretch":
        differing.remove("max_epochs")
    told = [f"{name} was {_short(before.get(name))}, now {_short(settings.get(name))}" for name in sorted(differing)]
    if len(told) > TOLD:
        told[TOLD:] = [f"{len(told) - TOLD} more"]
    if absent := sorted(objects.keys() ^ state["objects"].keys()):
        told.append(f"saved and present parts differ in {', '.join(absent)}")
    if told:
        longer = " More epochs: extend: keep, or extend: stretch." if is_longer else ""
        raise UserError(
            f"{path}: cannot go on, for {'; '.join(told)}. Set them back (the run's config.yaml has all of them), or "
            f"start anew with resume: never or another output_dir.{longer}"
        )
    for name, thing in objects.items():
        if isinstance(thing, nn.Module) and (other := differences(thing.state_dict(), state["objects"][name])):
            raise misfit(path, name, "; ".join(other))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= TOLD_LENGTH else f"{text[: TOLD_LENGTH - 3]}..."


def misfit(path: Path, name: str, reason: str) -> UserError:
    """The error for a part of a state that does not fit the run's."""
    return UserError(
        f"{path}: its {name} does not fit this run ({reason}). Set the settings of the network back, or start anew "
        "with resume: never or another output_dir."
    )


def run_settings(may_differ: Sequence[str], **facts: Any) -> dict[str, Any]:
    """Id -> value of all that decides the steps of the run whose config is being evaluated, for a `ResumeHandler`.

    Args:
        may_differ: ids of entries that do not count, beside those of `MAY_DIFFER`, with all that is below them.
        facts: what entries that do not count lead to, under names of their own: a hash of the data for its folder.
            They stand in the place of entries of the same name.

    Returns:
        Plain values. Expressions and references count as they are written; lists of components are taken apart.
    """
    tracking = (*TRACKING_SETTINGS, "is_not_rank0")  # what `--tracking mlflow` puts into a config
    names = (*MAY_DIFFER, *may_differ, *tracking, *facts)
    free = {name.replace("::", "#") for name in names}  # MONAI's parser rewrites ids
    return {**dict(_entries(calling_config() or {}, free)), **{name: plain(value) for name, value in facts.items()}}


def _entries(config: Mapping[str, Any], free: set[str]) -> Iterator[tuple[str, Any]]:
    """The id and the value of each entry that holds no others, but for those in `free`."""

    def holds_entries(place: Place, value: Any) -> bool:
        parts = parts_of(value)
        return id_of(place) not in free and (
            isinstance(value, Mapping) or any(isinstance(part, Mapping) for _, part in parts)
        )

    for place, value in walk(config, enters=holds_entries):
        if id_of(place) not in free and not holds_entries(place, value):
            yield id_of(place), plain(value)
