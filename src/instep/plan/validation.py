"""Checks of what a user passes to `update`: done before anything is changed.

Messages name who was called, what was got, what was expected, and the remedy.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from instep import arrays, tree
from instep.graph.dtypes import DTYPES, is_complex
from instep.plan.kinds import Pair
from instep.plan.leaves import Leaf
from instep.plan.overlaps import check_overlaps
from instep.tree import Path, format_path

_CONVERT = "convert it with numpy.asarray or cupy.asarray"
_TRACED = (
    "update is called by Python, not traced: the step would be taken once, and not when the "
    "function runs; call update outside of the function that is compiled or transformed, on what "
    "it returns"
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


def match(owner: str, params: Any, grads: Any) -> list[Leaf]:
    """Return the leaves of `params`, whatever they are, with their gradients."""
    tree.check_nesting(f"{owner}.update", "params", params)
    pairs: list[tuple[Path, Any, Any]] = []
    _walk(owner, (), params, grads, pairs)
    leaves = [Leaf(i, path, w, g) for i, (path, w, g) in enumerate(pairs)]
    _check_unique_keys(f"{owner}.update", leaves)
    return leaves


def check(owner: str, params: Any, leaves: Sequence[Leaf]) -> None:
    """Raise unless these leaves of `params` can be updated: those that are not may be anything."""
    for leaf in leaves:
        check_parameter(f"{owner}.update", leaf.path, leaf.parameter)
        _check_gradient(owner, leaf)
    check_replaced(f"{owner}.update", params, leaves)
    check_overlaps(f"{owner}.update", leaves)


def check_replaced(call: str, params: Any, leaves: Sequence[Leaf]) -> None:
    """Raise unless new objects can take the places of leaves that cannot be written."""
    replaced = [leaf.path for leaf in leaves if leaf.is_replaced]
    tree.check_replaceable(call, "params", params, replaced)


def unchecked(call: str, params: Any) -> list[Leaf]:
    """Return the leaves of `params`, whatever they are, without gradients."""
    tree.check_nesting(call, "params", params)
    return [Leaf(i, path, w, None) for i, (path, w) in enumerate(tree.flatten(params))]


def check_parameters(call: str, leaves: Sequence[Leaf]) -> None:
    """Raise unless all leaves can be updated, and have names of their own in the state."""
    for leaf in leaves:
        check_parameter(call, leaf.path, leaf.parameter)
    _check_unique_keys(call, leaves)


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
    if tree.is_leaf(grads) or tree.is_mapping(params) != tree.is_mapping(grads):
        got = arrays.describe(grads) if tree.is_leaf(grads) else f"a {type(grads).__name__}"
        raise TypeError(
            f"{owner}.update: {format_path('params', path)} is a {kind}, but "
            f"{format_path('grads', path)} is {got}; give gradients in the structure of the "
            f"parameters"
        )
    if tree.is_mapping(params):
        for key in params:
            if key not in grads:
                others = [format_path("", (*path, one)) for one in grads if one not in params]
                beside = f" (grads has {others[0]}, which params does not have)" if others else ""
                raise ValueError(
                    f"{owner}.update: grads has no {format_path('', (*path, key))}, which params "
                    f"has{beside}; give its gradient, or None to leave the parameter alone"
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
    gradients = _children(owner, "grads", path, grads)
    for key, child in _children(owner, "params", path, params).items():
        _walk(owner, (*path, key), child, gradients[key], pairs)


def _children(owner: str, name: str, path: Path, branch: Any) -> dict[Any, Any]:
    """Return the entries of a branch, or raise if there are fewer or more than it says."""
    found = dict(tree.children(branch))
    if len(found) != len(branch):
        raise ValueError(
            f"{owner}.update: {format_path(name, path)} says that it has {len(branch)} entries, "
            f"and iterates over {len(found)}; give a {type(branch).__name__} that agrees with "
            f"itself"
        )
    return found


def check_parameter(call: str, path: Path, w: Any) -> None:
    """Raise if `w` is no array that can be updated."""
    where = f"{call}: {format_path('params', path)}"
    check_readable(where, w)
    name, dtype = arrays.library(w), arrays.dtype_name(w)
    if dtype not in DTYPES:
        raise TypeError(
            f"{where} has dtype {dtype}, which cannot be updated; convert it to one of "
            f"{', '.join(DTYPES)} (in the dict of parameters as well as for the gradient)"
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
        memory = arrays.exported(w)
        if memory is None:
            return
        if not (memory.is_writable or arrays.has_namespace(w)):
            raise ValueError(
                f"{where} is read-only, and {name} has no namespace whose from_dlpack would make a "
                f"new array of what the step gives; pass a writable array"
            )
        strides, itemsize = memory.strides, memory.itemsize
    if _repeats_elements(w.shape, strides, itemsize):
        raise ValueError(
            f"{where} is a view in which elements share memory (strides {tuple(strides)}); pass "
            f"a copy of it"
        )


def check_parts(call: str, leaf: Leaf, pair: Pair) -> None:
    """Raise if parts of complex parameters cannot be written, nor those of what stands for them."""
    w = leaf.held[0]
    where = f"{call}: {format_path('params', leaf.path)} is {arrays.describe(w)}"
    is_seen = leaf.number is not None or pair[0] is not None
    if not is_seen and arrays.library(w) not in arrays.WITH_PARTS:
        raise TypeError(
            f'{where}, whose parts cannot be written by themselves; leave complex="modulus", or '
            f"convert it with numpy.asarray"
        )
    if arrays.library(w) == "torch" and w.is_conj():
        raise ValueError(
            f"{where}, the conjugate of what lies in memory, whose parts cannot be written; pass "
            f".resolve_conj() of it"
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
    check_readable(where, g)
    comparison = (
        f"{owner}.update: {format_path('params', leaf.path)} is {arrays.describe(w)}, but "
        f"{format_path('grads', leaf.path)} is {arrays.describe(g)}"
    )
    name = arrays.library(w)
    if arrays.library(g) != name:
        raise TypeError(f"{comparison}; convert the gradient with {name}.asarray")
    if leaf.gradient_dtype not in DTYPES:
        raise TypeError(f"{comparison}; convert the gradient to {leaf.dtype}")
    if is_complex(leaf.gradient_dtype) and not is_complex(leaf.dtype):
        raise TypeError(
            f"{comparison}; convert the gradient to {leaf.dtype}: that of a real parameter is "
            f"real, as g.real is"
        )
    if tuple(g.shape) != tuple(w.shape):
        raise ValueError(
            f"{comparison}; shapes must be equal (nothing is broadcast): sum or reshape the "
            f"gradient"
        )
    if arrays.device(g) != arrays.device(w):
        raise ValueError(f"{comparison}; move the gradient to the device of the parameter")


def check_array(call: str, path: Path, x: Any) -> None:
    """Raise if a leaf of `params` is no array that can be read."""
    check_readable(f"{call}: {format_path('params', path)}", x)


def check_readable(where: str, x: Any) -> None:
    """Raise if `x`, which messages call `where`, is no array that can be read."""
    name = arrays.library(x)
    if name is None:
        if isinstance(x, complex | np.generic | int):
            remedy = "give a float or an array of floats"
        else:
            remedy = _CONVERT if _has_elements(x) else tree.remedy(x)
        raise TypeError(f"{where} is {arrays.describe(x)}, not an array; {remedy}")
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
        if not hasattr(x, "shape") or not _can_be_read(x):
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
    if not arrays.has_all_elements(x):
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


def _has_elements(x: Any) -> bool:
    """Return whether an object that is no array has what NumPy or CuPy can make one of."""
    protocols = ("__array__", "__array_interface__", "__cuda_array_interface__", "__dlpack__")
    if any(hasattr(x, name) for name in protocols):
        return True
    try:
        memoryview(x)
    except TypeError:
        return False
    return not isinstance(x, bytes | bytearray)


def _can_be_read(x: Any) -> bool:
    return arrays.has_namespace(x) or arrays.exported(x) is not None


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
