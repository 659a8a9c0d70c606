"""Arrays in the place of what a user holds: engines see those, and the user never does.

What no engine could read or write, it can so: a number, a tensor of PyTorch, an array of JAX.
"""

from collections.abc import Sequence
from typing import Any

from instep import arrays
from instep.plan import immutables, tensors
from instep.plan.kinds import NOBODY, Pair
from instep.plan.leaves import Leaf


def of_memory(leaf: Leaf) -> Pair:
    """Return what stands for a leaf in an engine for memory, NumPy arrays or CuPy arrays."""
    w, g = leaf.held
    held = [x for x in (w, g) if x is not None]
    match arrays.library(w):
        case "torch" if not w.is_neg() and all(map(tensors.can_be_seen, held)):
            return tensors.Parameter(w), None if g is None else tensors.Gradient()
        case "jax" if all(map(immutables.can_be_seen, held)):
            gradient = None if g is None else immutables.Immutable(g, written=False)
            return immutables.Immutable(w, written=True), gradient
    return NOBODY


def of_library(leaf: Leaf) -> Pair:
    """Return what stands for a leaf where the functions of its own library are called."""
    if arrays.library(leaf.held[1]) == "torch":
        return None, tensors.Detached()
    return NOBODY


class StandIns:
    """What stands for the leaves of a plan.

    Attributes
    ----------
    replaces
        Whether the tree gets other objects.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self._of_parameters, self._of_gradients = (
            [(leaf.position, kind) for leaf in leaves if (kind := leaf.stand_ins[i]) is not None]
            for i in (0, 1)
        )
        self._replaced = [(i, kind) for i, kind in self._of_parameters if kind.replaces]
        self._told = [i for i, kind in self._of_parameters if kind.tells_of_writes]
        self._found = bool(self._of_parameters or self._of_gradients)
        self.replaces = bool(self._replaced)

    def arrays(
        self, params: Sequence[Any], grads: Sequence[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]] | None:
        """Return parameters and gradients as engines see them; None where others are held.

        What is held must be kept as long as what is returned: it need not keep its memory.
        """
        if not self._found:
            return params, grads
        seen = list(params), list(grads)
        for of, kinds in zip(seen, (self._of_parameters, self._of_gradients), strict=True):
            for position, kind in kinds:
                array = kind.array(of[position])
                if array is None:
                    return None
                of[position] = array
        return tuple(seen[0]), tuple(seen[1])

    def announce(self, held: Sequence[Any]) -> None:
        """Tell libraries that these parameters are about to be written, as often as called."""
        if self._told:
            tensors.tell([held[i] for i in self._told])

    def handed_back(self, params: Sequence[Any]) -> dict[int, Any]:
        """Return by position what replaces parameters, from the arrays that stood for them."""
        return {i: kind.hand_back(params[i]) for i, kind in self._replaced}
