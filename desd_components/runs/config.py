"""What configs need to say what they say: components that several entries share."""

from __future__ import annotations

from typing import TypeVar

Handler = TypeVar("Handler")


def shared(handler: Handler) -> Handler:
    """The same handler: an entry of a handler list for one that other parts of a config refer to as well.

    MONAI reads ``_target_`` of each entry of ``train#handlers``, so none of them may be a mere reference.
    """
    return handler
