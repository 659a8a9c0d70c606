"""Arrays in the place of what a user holds: engines see those, and the user never does.

What no engine could read or write, it can so: a number, a tensor of PyTorch, an array of JAX or of
any library that exports its memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from instep import arrays
from instep.engines.base import Leaves
from instep.hyperparameters import MASKS
from instep.plan import exports, immutables, tensors
from instep.plan.kinds import NOBODY, Lane, Pair, handed_back
from instep.plan.leaves import Leaf


def of_memory(leaf: Leaf) -> Pair:
    """Return what stands for a leaf in an engine for memory, NumPy arrays or CuPy arrays."""
    w, g = leaf.held
    if arrays.is_number(g):  # an array of NumPy stands for it already
        g = None
    held = [x for x in (w, g) if x is not None]
    match arrays.library(w):
        case "torch" if not tensors.is_lazy(w) and all(map(tensors.can_be_seen, held)):
            return tensors.Parameter(w), None if g is None else tensors.Gradient()
        case "jax" if all(map(immutables.can_be_seen, held)):
            gradient = None if g is None else immutables.stand_in(g, written=False)
            return immutables.stand_in(w, written=True), gradient
    return exports.pair(leaf.held) or NOBODY


def of_library(leaf: Leaf) -> Pair:
    """Return what stands for a leaf where the functions of its own library are called."""
    if arrays.library(leaf.held[1]) == "torch":
        return None, tensors.Detached()
    w = leaf.held[0]
    if arrays.exported(w) is not None and (leaf.in_parts or not arrays.has_namespace(w)):
        return of_memory(leaf)  # it has no functions that would do
    return NOBODY


def beside(leaf: Leaf, array: Any) -> Any:
    """Return an array of the shape of a parameter that is held, as engines see those of a leaf."""
    if arrays.library(array) != arrays.library(leaf.parameter):
        match arrays.library(array):
            case "torch":
                array = tensors.Gradient().array(array)
            case "jax":
                array = immutables.stand_in(array, written=False).array(array)
            case _:
                array = exports.reading(array)
    if arrays.library(array) in ("numpy", "cupy") and arrays.dtype_name(array) in MASKS:
        array = array.view("uint8")
    if leaf.in_parts and arrays.is_complex(array):
        return arrays.as_parts(array)
    if leaf.in_parts:
        array = arrays.namespace(array).broadcast_to(array[..., None], (*array.shape, 2))
    return array


class StandIns:
    """What stands for the leaves of a plan.

    Attributes
    ----------
    are_needed
        Whether engines see anything else than what is held.
    hand_back
        Whether there is something to do after a step: the tree gets other objects, or libraries
        work on streams of devices, where they wait for the step.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self._of_parameters, self._of_gradients = (
            [(leaf.position, kind) for leaf in leaves if (kind := leaf.stand_ins[i]) is not None]
            for i in (0, 1)
        )
        self._replaced = [(i, kind) for i, kind in self._of_parameters if kind.replaces]
        self._told = [i for i, kind in self._of_parameters if kind.tells_of_writes]
        self.are_needed = bool(self._of_parameters or self._of_gradients)
        # Where all are tensors, compiled code sees whether they are what they were.
        numbers = [leaf for leaf in leaves if arrays.is_number(leaf.held[1])]
        self._are_tensors = len(self._told) == len(leaves) and not numbers
        self._check: Any = None
        kinds = [kind for _, kind in (*self._of_parameters, *self._of_gradients)]
        self._finds = {kind.lane for kind in kinds if kind.lane is not None}
        self.hand_back = bool(self._replaced or self._finds)
        self._lanes: set[Lane] = set()
        self._streams: Any = None
        self._follow()  # what state starts from is read before the first step
        self._seen: Leaves = ((), ())

    def arrays(self, params: tuple[Any, ...], grads: tuple[Any, ...]) -> Leaves | None:
        """Return parameters and gradients as engines see them; None where others are held.

        What is held must be kept as long as what is returned: it need not keep its memory.
        """
        if not self.are_needed:
            return params, grads
        if self._check is not None:
            if self._check.follow(self._own(params), self._own(grads)):
                self._follow()
                return self._seen
            self._check = None
        sides = params, grads
        # No engine sees the other leaves of a tree, and no reference to them is kept.
        seen = [[None] * len(side) if self._are_tensors else list(side) for side in sides]
        kinds_of_sides = self._of_parameters, self._of_gradients
        for side, of, kinds in zip(sides, seen, kinds_of_sides, strict=True):
            for position, kind in kinds:
                of[position] = kind.array(side[position])
                if of[position] is None:
                    return None
        found = tuple(seen[0]), tuple(seen[1])
        self._follow()
        if self._are_tensors:
            self._seen = found
            held, stands = ([self._own(x) for x in both] for both in (sides, found))
            self._check = tensors.check_for(held, stands)
        return found

    def _own(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Return the leaves that are stood for, where all are tensors."""
        if len(leaves) != len(self._told):
            return tuple([leaves[i] for i in self._told])
        return leaves if type(leaves) is tuple else tuple(leaves)

    def _follow(self) -> None:
        """Let the step wait, on devices, for what libraries have begun there."""
        if self._finds:
            if self._streams is None:
                from instep.engines.cuda.foreign import Streams

                self._streams = Streams()
            self._lanes = {find() for find in self._finds}
            self._streams.follow(self._lanes)

    def tensors(self, held: Leaves) -> Leaves | None:
        """Return what is held, where compiled code sees all that there is to know of it."""
        return None if self._check is None else held

    def announce(self, held: Sequence[Any]) -> None:
        """Tell libraries that these parameters are about to be written, as often as called."""
        if self._check is not None:
            self._check.count_changes(self._own(held))
        elif self._told:
            tensors.tell([held[i] for i in self._told])

    def handed_back(self, params: Sequence[Any], new: Mapping[int, Any]) -> dict[int, Any]:
        """Return by position what replaces parameters, from the arrays that stood for them.

        `new` are those that engines made of arrays that cannot be written. From now on libraries
        wait, on devices, for the step.
        """
        if self._streams is not None:
            self._streams.lead(self._lanes)
        kinds = dict(self._of_parameters) if new else {}
        found = {i: kinds[i].returned(x) if i in kinds else x for i, x in new.items()}
        own = handed_back([(one, new.get(i, params[i])) for i, one in self._replaced])
        return found | dict(zip([i for i, _ in self._replaced], own, strict=True))
