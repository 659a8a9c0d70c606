"""The leaves of both trees of a step, read in one go."""

from collections.abc import Sequence
from typing import Any

from instep.engines.base import Leaves
from instep.tree import LeafReader


class Trees:
    """Reads parameters and gradients that have the structure of those it was made from.

    Parameters
    ----------
    unseen
        Positions of leaves that a step does not look at.
    idle
        Those of them whose gradient is None: it is to stay so.

    Attributes
    ----------
    params, grads
        What reads each of them.
    are_seen
        Whether a step looks at all leaves.
    """

    def __init__(self, params: Any, grads: Any, unseen: Sequence[int], idle: Sequence[int]) -> None:
        self.params, self.grads = LeafReader(params, unseen), LeafReader(grads, unseen)
        self.are_seen, self._idle = not unseen, idle

    def read(self, params: Any, grads: Any) -> Leaves | None:
        """Return the leaves of trees of this structure, where the same gradients are None."""
        leaves, gradients = self.params.read(params), self.grads.read(grads)
        if leaves is None or gradients is None or len(leaves) != len(gradients):
            return None
        for position in self._idle:
            if gradients[position] is not None:
                return None
        return leaves, gradients
