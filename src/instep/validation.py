"""Checks of what a user passes to `update`: done before anything is changed.

Messages name who was called, what was got, what was expected, and the remedy.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import arrays, tree
from instep.numerics import COMPUTE_DTYPE
from instep.tree import Path, format_path, join_path

_CONVERT = "convert it with numpy.asarray or cupy.asarray"
_TRACED = (
    "the step would be taken once, with what stands for values, and not when the function runs; "
    "call update outside of the function that is compiled or transformed, on what it returns"
)

#: Arrays whose elements are all there is to them. The first class is the base of the others.
_PLAIN = {
    "numpy": ("ndarray", "memmap"),
    "cupy": ("ndarray",),
    "torch": ("Tensor", "nn.Parameter"),
}
_REMEDIES = {
    "numpy": "numpy.asarray",
    "cupy": "its view(cupy.ndarray)",
    "torch": "its as_subclass(torch.Tensor)",
}


@dataclass(eq=False)
class Leaf:
    """A parameter and its gradient, at one position of the tree."""

    position: int
    path: Path
    parameter: Any
    gradient: Any

    @property
    def key(self) -> str:
        """Name of the leaf in the state."""
        return join_path(self.path)

    @property
    def dtype(self) -> str:
        """Storage dtype."""
        return arrays.dtype_name(self.parameter)


def match(owner: str, params: Any, grads: Any) -> list[Leaf]:
    """Return the leaves of `params`, whatever they are, with their gradients."""
    tree.check_nesting(f"{owner}.update", "params", params)
    pairs: list[tuple[Path, Any, Any]] = []
    _walk(owner, (), params, grads, pairs)
    leaves = [Leaf(i, path, w, g) for i, (path, w, g) in enumerate(pairs)]
    _check_unique_keys(f"{owner}.update", leaves)
    return leaves


def check(owner: str, leaves: Sequence[Leaf]) -> None:
    """Raise unless the leaves can be updated: those that are not may be anything."""
    for leaf in leaves:
        check_parameter(f"{owner}.update", leaf.path, leaf.parameter)
        _check_gradient(owner, leaf)
    check_overlaps(owner, leaves)


def unchecked(call: str, params: Any) -> list[Leaf]:
    """Return the leaves of `params`, whatever they are, without gradients."""
    tree.check_nesting(call, "params", params)
    return [Leaf(i, path, w, None) for i, (path, w) in enumerate(tree.flatten(params))]


def check_parameters(owner: str, leaves: Sequence[Leaf], call: str) -> None:
    """Raise unless all leaves can be updated, and have names of their own in the state."""
    for leaf in leaves:
        check_parameter(f"{owner}.{call}", leaf.path, leaf.parameter)
    _check_unique_keys(f"{owner}.{call}", leaves)


def _walk(
    owner: str, path: Path, params: Any, grads: Any, pairs: list[tuple[Path, Any, Any]]
) -> None:
    if tree.is_leaf(params):
        if not tree.is_leaf(grads):
            raise TypeError(
                f"{owner}.update: {format_path('params', path)} is {arrays.describe(params)}, but "
                f"{format_path('grads', path)} is a {type(grads).__name__}; give one gradient "
                f"array for each parameter"
            )
        pairs.append((path, params, grads))
        return
    kind = type(params).__name__
    if tree.is_leaf(grads) or isinstance(params, dict) != isinstance(grads, dict):
        got = arrays.describe(grads) if tree.is_leaf(grads) else f"a {type(grads).__name__}"
        raise TypeError(
            f"{owner}.update: {format_path('params', path)} is a {kind}, but "
            f"{format_path('grads', path)} is {got}; give gradients in the structure of the "
            f"parameters"
        )
    if isinstance(params, dict):
        for key in params:
            if key not in grads:
                raise ValueError(
                    f"{owner}.update: grads has no {format_path('', (*path, key))}, which params "
                    f"has; give its gradient, or None to leave the parameter alone"
                )
        for key in grads:
            if key not in params:
                raise ValueError(
                    f"{owner}.update: grads has {format_path('', (*path, key))}, which params "
                    f"does not have; remove it, or check the key"
                )
    elif len(params) != len(grads):
        raise ValueError(
            f"{owner}.update: {format_path('params', path)} has {len(params)} entries, but "
            f"{format_path('grads', path)} has {len(grads)}; give one gradient for each parameter"
        )
    for key, child in tree.children(params):
        _walk(owner, (*path, key), child, grads[key], pairs)


def check_parameter(call: str, path: Path, w: Any) -> None:
    """Raise if `w` is no array that can be updated."""
    where = f"{call}: {format_path('params', path)}"
    _check_array(where, w)
    name, dtype = arrays.library(w), arrays.dtype_name(w)
    if dtype not in COMPUTE_DTYPE:
        remedy = {
            "complex64": "view it as pairs of float32, x.view('float32')",
            "complex128": "view it as pairs of float64, x.view('float64')",
        }.get(dtype, f"convert it to one of {', '.join(COMPUTE_DTYPE)}")
        raise TypeError(
            f"{where} has dtype {dtype}, which cannot be updated; {remedy} (in the dict of "
            f"parameters as well as for the gradient)"
        )
    if name == "numpy":
        if not w.flags.writeable:
            raise ValueError(
                f"{where} is read-only; pass a writable array, for example a copy of it"
            )
        strides, itemsize = w.strides, w.itemsize
    elif name == "torch":
        _check_writable_tensor(where, path, w)
        strides, itemsize = w.stride(), 1
    elif name == "cupy":
        strides, itemsize = w.strides, w.itemsize
    else:
        return
    if _repeats_elements(w.shape, strides, itemsize):
        raise ValueError(
            f"{where} is a view in which elements share memory (strides {tuple(strides)}); pass "
            f"a copy of it"
        )


def _repeats_elements(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Return whether a byte may belong to two elements, as in a broadcast or a window view."""
    if 0 in shape:
        return False
    extent = itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < extent:
            return True
        extent += stride * (n - 1)
    return False


def _check_gradient(owner: str, leaf: Leaf) -> None:
    w, g = leaf.parameter, leaf.gradient
    where = f"{owner}.update: {format_path('grads', leaf.path)}"
    _check_array(where, g)
    comparison = (
        f"{owner}.update: {format_path('params', leaf.path)} is {arrays.describe(w)}, but "
        f"{format_path('grads', leaf.path)} is {arrays.describe(g)}"
    )
    name = arrays.library(w)
    if arrays.library(g) != name:
        raise TypeError(f"{comparison}; convert the gradient with {name}.asarray")
    if arrays.dtype_name(g) != arrays.dtype_name(w):
        raise TypeError(f"{comparison}; convert the gradient to {arrays.dtype_name(w)}")
    if tuple(g.shape) != tuple(w.shape):
        raise ValueError(
            f"{comparison}; shapes must be equal (nothing is broadcast): sum or reshape the "
            f"gradient"
        )
    if getattr(g, "requires_grad", False):
        raise ValueError(f"{where} requires grad; pass it without its graph, with .detach()")
    if arrays.device(g) != arrays.device(w):
        raise ValueError(f"{comparison}; move the gradient to the device of the parameter")


def check_array(call: str, path: Path, x: Any) -> None:
    """Raise if a leaf of `params` is no array that can be read."""
    _check_array(f"{call}: {format_path('params', path)}", x)


def _check_array(where: str, x: Any) -> None:
    name = arrays.library(x)
    if name is None:
        raise TypeError(f"{where} is {arrays.describe(x)}, not an array; {_CONVERT}")
    if arrays.is_traced(x):
        raise TypeError(f"{where} is traced by {name} ({type(x).__name__}): {_TRACED}")
    for library, plain in _PLAIN.items():
        base = _class(library, plain[0])
        if base is not None and isinstance(x, base):
            if type(x) not in [_class(library, name) for name in plain]:
                raise TypeError(
                    f"{where} is a {type(x).__module__}.{type(x).__name__}, a subclass of "
                    f"{library}.{plain[0]} whose extra meaning an update would ignore; pass a "
                    f"plain array ({_REMEDIES[library]})"
                )
            break
    else:
        if not hasattr(x, "shape") or not _has_namespace(x):
            remedy = "convert it with .toarray()" if hasattr(x, "toarray") else _CONVERT
            raise TypeError(
                f"{where} is {type(x).__module__}.{type(x).__name__}, of no library that follows "
                f"the array API standard; {remedy}"
            )
    if name == "torch":
        _check_tensor(where, x)
    if name == "jax" and x.is_deleted():
        raise ValueError(
            f"{where} has been deleted, as arrays are that a jitted function was given to keep; "
            f"pass what that function returned, or donate no argument"
        )


def _class(library: str, name: str) -> Any:
    """Return a class of a library, if the library has been imported."""
    found: Any = sys.modules.get(library)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _check_tensor(where: str, x: Any) -> None:
    """Raise if a tensor of PyTorch is not one of elements in memory that can be read."""
    torch = sys.modules["torch"]
    if x.is_nested or x.layout is not torch.strided:
        kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.").removeprefix("_")
        remedy = "its parts, .unbind()" if x.is_nested else "a dense one, .to_dense()"
        raise TypeError(
            f"{where} is a {kind} tensor of torch, not one array of elements; pass {remedy}"
        )
    if x.is_quantized:
        raise TypeError(
            f"{where} is a quantized tensor of torch, not one of real numbers; pass .dequantize()"
        )
    if x.device.type == "meta":
        raise ValueError(
            f"{where} is a tensor of torch on the device meta, which has no elements; make it with "
            f".to_empty(device=...) and give it values"
        )
    if x.numel() > 0 and x.untyped_storage().nbytes() == 0:
        raise ValueError(
            f"{where} is a tensor of torch whose memory has been released; pass one that has "
            f"its elements"
        )


def _check_writable_tensor(where: str, path: Path, w: Any) -> None:
    """Raise if PyTorch would refuse to write a tensor, or another tensor would not be told."""
    if w.requires_grad:
        raise ValueError(
            f"{where} requires grad, so it cannot be written in place; pass "
            f"{format_path('params', path)}.detach(), which shares its memory"
        )
    if w.is_inference() and not sys.modules["torch"].is_inference_mode_enabled():
        raise ValueError(
            f"{where} is an inference tensor, made inside of torch.inference_mode(), so it cannot "
            f"be written outside of it; pass a clone of it, or make it under torch.no_grad()"
        )
    if w.numel() > 0 and w.data_ptr() == 0:
        raise ValueError(
            f"{where} is a tensor of torch without memory of its own, so it cannot be written; "
            f"pass a clone of it"
        )


def _has_namespace(x: Any) -> bool:
    try:
        arrays.namespace(x)
    except TypeError:
        return False
    return True


def _check_unique_keys(call: str, leaves: Sequence[Leaf]) -> None:
    seen: dict[str, Leaf] = {}
    for leaf in leaves:
        other = seen.setdefault(leaf.key, leaf)
        if other is not leaf:
            raise ValueError(
                f"{call}: {format_path('params', other.path)} and "
                f"{format_path('params', leaf.path)} have the same name {leaf.key!r} in the "
                f"state; rename one of the keys"
            )


def check_overlaps(owner: str, leaves: Sequence[Leaf]) -> None:
    """Raise if a parameter shares memory with another parameter, or with any gradient."""
    seen: dict[int, Leaf] = {}
    for leaf in leaves:
        other = seen.setdefault(id(leaf.parameter), leaf)
        if other is not leaf:
            _fail_overlap(owner, "params", other, "params", leaf)
    for leaf in leaves:
        parameter = seen.get(id(leaf.gradient))
        if parameter is not None:
            _fail_overlap(owner, "params", parameter, "grads", leaf)

    entries: list[_Extent] = []
    for leaf in leaves:
        for array, written in ((leaf.parameter, True), (leaf.gradient, False)):
            found = arrays.memory_bounds(array)
            if found is not None:
                entries.append((*found, written, leaf))
    for cluster in _clusters(entries):
        if len(cluster) > 1 and not _interleaves(cluster):
            _check_pairs(owner, cluster)


#: First byte, byte after the last, whether it is a parameter, and the leaf.
_Extent = tuple[int, int, bool, Leaf]


def _clusters(entries: list[_Extent]) -> Iterator[list[_Extent]]:
    """Yield the ranges in groups that lie apart from each other."""
    cluster: list[_Extent] = []
    end = 0
    for entry in sorted(entries, key=lambda entry: entry[:2]):
        if cluster and entry[0] >= end:
            yield cluster
            cluster = []
        cluster.append(entry)
        end = max(end, entry[1]) if len(cluster) > 1 else entry[1]
    if cluster:
        yield cluster


def _places(entry: _Extent) -> NDArray[Any]:
    return arrays.footprint(entry[3].parameter if entry[2] else entry[3].gradient)


def _interleaves(cluster: Sequence[_Extent]) -> bool:
    """Return whether arrays are shown to be apart by where they lie in the rows of a matrix.

    The columns of a matrix overlap by their bounds: 120 of them make 7,140 pairs, which take 24 ms
    to compare. But if all strides are multiples of the length of a row, or stay within it, each
    array has its own part of every row or it shares memory. A False may still be no overlap.
    """
    arrays_of_cluster = [_places(entry) for entry in cluster]
    strides = {abs(s) for x in arrays_of_cluster for s, n in zip(x.strides, x.shape, strict=True)}
    for row in sorted(strides - {0}, reverse=True)[:4]:
        parts = sorted(_part_of_row(x, row) for x in arrays_of_cluster)
        ends = [start + length for start, length in parts]
        begins = [start for start, _ in parts[1:]] + [parts[0][0] + row]
        if all(end <= begin for end, begin in zip(ends, begins, strict=True)):
            return True
    return False


def _part_of_row(x: NDArray[Any], row: int) -> tuple[int, int]:
    """Return where an array begins in rows of this length, and how far it goes within one."""
    first = last = 0
    for stride, n in zip(x.strides, x.shape, strict=True):
        if stride % row:
            first += min(0, stride * (n - 1))
            last += max(0, stride * (n - 1))
    return (x.ctypes.data + first) % row, last - first + x.itemsize


def _check_pairs(owner: str, cluster: Sequence[_Extent]) -> None:
    """Raise if two arrays share memory, of which one is a parameter."""
    unfinished: list[_Extent] = []
    for entry in cluster:
        unfinished = [before for before in unfinished if before[1] > entry[0]]
        for before in unfinished:
            if (entry[2] or before[2]) and _share_memory(entry, before):
                kinds = ["params" if one[2] else "grads" for one in (before, entry)]
                _fail_overlap(owner, kinds[0], before[3], kinds[1], entry[3])
        unfinished.append(entry)


def _share_memory(a: _Extent, b: _Extent) -> bool:
    try:
        return np.shares_memory(_places(a), _places(b), max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _fail_overlap(owner: str, kind_a: str, a: Leaf, kind_b: str, b: Leaf) -> None:
    raise ValueError(
        f"{owner}.update: {format_path(kind_a, a.path)} and {format_path(kind_b, b.path)} share "
        f"memory, so one update would change the other; pass a copy of one of them"
    )


class Written:
    """Ranges of memory that a step writes, sorted: what makes the check of a step cheap.

    Parameters seldom move, while gradients often are new arrays, so the sorting is done once.

    Attributes
    ----------
    starts, stops
        The ranges that are not empty, sorted; those that overlap are one.
    overlaps
        Whether one of them touches another.
    is_settled
        Whether it was seen that arrays share no memory whose ranges touch: views can interleave.
    """

    def __init__(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        self._given = starts.copy()
        self.is_settled = False
        occupied = np.flatnonzero(stops > starts)
        order = occupied[np.argsort(starts[occupied])]
        starts, ends = starts[order], np.maximum.accumulate(stops[order])
        apart = np.ones(len(order) + 1, dtype=bool)
        apart[1:-1] = starts[1:] >= ends[:-1]
        self.starts, self.stops = starts[apart[:-1]], ends[apart[1:]]
        self.overlaps = not bool(apart.all())

    def is_for(self, starts: NDArray[np.int64]) -> bool:
        """Return whether the ranges begin where those given now begin."""
        return np.array_equal(self._given, starts)

    def may_touch(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> bool:
        """Return whether a written range touches another, or one of those that are read.

        A True is looked at again by `check_overlaps`.
        """
        if self.overlaps and not self.is_settled:
            return True
        if len(self.starts) == 0:
            return False
        # The ranges lie apart, so the first that ends after `starts` decides.
        neighbour = np.searchsorted(self.stops, starts, side="right")
        begins = np.append(self.starts, np.iinfo(np.int64).max)[neighbour]
        return bool(((begins < stops) & (stops > starts)).any())
