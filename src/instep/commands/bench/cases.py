"""What is measured: an optimizer on tensors of some shapes, with a number of threads."""

import importlib
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import AdamW, chain, optimizers
from instep.graph.dtypes import is_complex, state_dtype
from instep.transforms import average, clip_by_global_norm

Shape = tuple[int, ...]

#: The chain that is measured as if it were one optimizer: clip_by_global_norm(1), AdamW and
#: average(0.999).
CHAIN = "clip+AdamW+average"

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Case:
    """One point of the grid.

    Attributes
    ----------
    optimizer
        Name of an optimizer of the kit, or `CHAIN`.
    shapes
        Shapes of the parameters.
    label
        What the shapes are, in words.
    threads
        CPUs that all contenders have; without meaning on a GPU.
    """

    optimizer: str
    shapes: tuple[Shape, ...]
    label: str
    dtype: str = "float32"
    threads: int = 1
    backend: str = "numpy"

    @classmethod
    def uniform(cls, optimizer: str, tensors: int, size: int, **fields: Any) -> "Case":
        """Return the case of `tensors` vectors of `size` elements."""
        plural = "s" if tensors > 1 else ""
        label = f"{tensors:,} tensor{plural} of {count(size)}"
        return cls(optimizer, tensors * ((size,),), label, **fields)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Case":
        """Return the case that `to_json` described."""
        shapes = (repeated * (tuple(shape),) for repeated, shape in fields["shapes"])
        return cls(**{**fields, "shapes": tuple(itertools.chain.from_iterable(shapes))})

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain data; equal shapes that follow each other are counted."""
        runs = itertools.groupby(self.shapes)
        shapes = [[len([*run]), list(shape)] for shape, run in runs]
        return {**vars(self), "shapes": shapes}

    @property
    def elements(self) -> int:
        """Number of elements of all parameters."""
        return sum(map(math.prod, self.shapes))

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters."""
        return self.elements * storage(self.dtype).itemsize

    @property
    def state_nbytes(self) -> int:
        """Bytes of an array of state like the parameters: that of 16-bit ones is float32."""
        return self.elements * storage(state_dtype(self.dtype, is_real=False)).itemsize


@dataclass(frozen=True)
class OnePass(Case):
    """One of the passes of the step of a case, the first being number 0: streams can walk it."""

    number: int = 0


def storage(dtype: str) -> np.dtype[Any]:
    """Return the dtype of this name: that of ml_dtypes where NumPy has none, as for bfloat16."""
    module = np if hasattr(np, dtype) else importlib.import_module("ml_dtypes")
    found: np.dtype[Any] = np.dtype(getattr(module, dtype))
    return found


def optimizer(case: Case) -> Any:
    """Return a new optimizer of the kit for a case."""
    threads = case.threads if case.backend == "numpy" else None
    if case.optimizer == CHAIN:
        return chain(clip_by_global_norm(1.0), AdamW(), average(0.999), threads=threads)
    return getattr(optimizers, case.optimizer)(threads=threads)


def count(number: int) -> str:
    """Return a number of elements: as a power of two where it is a large one."""
    if number >= 1024 and number.bit_count() == 1:
        return f"2**{number.bit_length() - 1}"
    return f"{number:,}"


def arrays(case: Case, seed: int) -> list[NDArray[Any]]:
    """Return new NumPy arrays of the shapes of a case, filled with normal deviates.

    Those of complex numbers have them in both parts.
    """
    # Drawing hundreds of millions of numbers would take longer than measuring; no rule minds
    # that they repeat.
    rng = np.random.default_rng(seed)
    length = min(_BLOCK, max(map(math.prod, case.shapes), default=0))
    block: Any = rng.standard_normal(length)
    if is_complex(case.dtype):
        block = block + 1j * rng.standard_normal(length)
    block = block.astype(storage(case.dtype))
    found = []
    for shape in case.shapes:
        array = np.empty(shape, block.dtype)
        flat = array.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            part = flat[start : start + _BLOCK]
            part[:] = block[: part.size]
        found.append(array)
    return found


def trees(case: Case) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return parameters and gradients as dicts."""
    params, grads = arrays(case, 0), arrays(case, 1)
    names = [f"p{i:05}" for i in range(len(params))]
    return dict(zip(names, params, strict=True)), dict(zip(names, grads, strict=True))


def place(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters and gradients in arrays of the backend."""
    params, grads = trees(case)
    if case.backend == "numpy":
        return params, grads
    xp = importlib.import_module(case.backend)
    params, grads = (
        {key: xp.asarray(array) for key, array in tree.items()} for tree in (params, grads)
    )
    return params, grads
