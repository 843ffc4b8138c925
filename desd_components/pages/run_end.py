"""The end of a run: what it needed goes on record, and its folder gets a page to look at.

The page is drawn by the rest of this room, imported late, for matplotlib is slow to start. A page is a comfort:
whatever goes wrong with it is said in one line, and the run has succeeded all the same.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ignite.distributed as idist

from ..base.errors import innermost_user_error, one_line
from ..runs.ending import was_stopped
from ..runs.log import record_end

logger = logging.getLogger(__name__)


@contextmanager
def comfort(what: str) -> Iterator[None]:
    """Let nothing that goes wrong inside end the run: it becomes a warning of one line."""
    try:
        yield
    except Exception as error:
        logger.debug("the whole trace of the warning below", exc_info=True)
        cause = innermost_user_error(error)
        reason = str(cause) if cause is not None else f"{type(error).__name__}: {one_line(error)}."
        logger.warning("%s: %s The run itself is complete.", what, reason)


def finish_run(output_dir: str | Path, page: bool = True, part: str = "") -> None:
    """Complete the record of a run, and write its page, ``report.html``; on the first process only.

    A run that a signal ended gets no page, for it has to be gone soon: `report RUN` makes one.

    Args:
        output_dir: the run's folder.
        page: false writes none.
        part: as `record_run` has it.
    """
    if idist.get_rank() != 0:
        return
    with comfort(f"{output_dir}: the end of the run is not on record"):
        record_end(output_dir, part)
    if page and not was_stopped():
        with comfort(f"{output_dir}: no page was written"):
            from .run_page import write_run_page

            logger.info("page: %s", write_run_page(output_dir))
