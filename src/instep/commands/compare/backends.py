"""The array libraries that the experiments run on: which arrays hold the parameters."""

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from instep.commands.errors import CommandError
from instep.commands.info import describe

#: Name on the command line -> module of the array namespace, and what to install.
LIBRARIES = {
    "numpy": ("array_api_compat.numpy", "numpy"),
    "cupy": ("array_api_compat.cupy", "instep[cuda12]"),
    "torch": ("array_api_compat.torch", "torch"),
    "jax": ("jax.numpy", "jax"),
    "array_api_strict": ("array_api_strict", "array-api-strict"),
}


@dataclass(frozen=True)
class Backend:
    """An array library: its name, and its array-API namespace `xp`."""

    name: str
    xp: Any

    def array(self, values: npt.ArrayLike) -> Any:
        """Return a copy of `values`, in their NumPy dtype, as an array of this library."""
        return self.xp.asarray(np.array(values), copy=True)

    def numpy(self, array: Any) -> npt.NDArray[Any]:
        """Return a copy of an array of this library as a NumPy array."""
        match self.name:
            case "cupy":
                return np.asarray(array.get())
            case "torch":
                return np.array(array.numpy(force=True))
            case _:
                return np.array(array)


def load(name: str) -> Backend:
    """Return the backend called `name`, after having made one array with it.

    JAX is switched to 64 bits, for the whole process: the paths are float64. If it has not been
    imported before, XLA is kept from dividing by a number as multiplying by its reciprocal.

    Raises
    ------
    CommandError
        There is no such backend, its library cannot be imported, or it can make no array (no GPU).
    """
    if name not in LIBRARIES:
        raise CommandError(f"unknown backend {name!r}; choose one of {', '.join(LIBRARIES)}")
    module, package = LIBRARIES[name]
    try:
        if name == "jax":
            prepare_jax()
        backend = Backend(name, importlib.import_module(module))
    except ImportError as error:
        reason = str(error).strip().partition("\n")[0]
        raise CommandError(
            f"--backend {name} cannot be imported ({reason}); install it with: "
            f"pip install '{package}'"
        ) from error
    except Exception as error:
        raise CommandError(
            f"--backend {name} is installed but cannot be imported ({describe(error)}); see what "
            "instep info says of it, or use --backend numpy"
        ) from error
    try:
        backend.numpy(backend.array([0.0]))
    except Exception as error:
        raise CommandError(
            f"--backend {name} is installed but cannot make an array ({describe(error)}); check "
            "its device and driver, or use --backend numpy"
        ) from error
    return backend


def prepare_jax() -> None:
    """Let JAX compute in float64, and divide exactly."""
    # XLA's algebraic simplifier turns a / c into a * (1 / c) where c is a number, also in a
    # single operation; a fifth of float64 results are off by one bit then. XLA reads this
    # variable once, when it starts.
    exact = "--xla_disable_hlo_passes=algsimp"
    if "jax" not in sys.modules and "xla_disable_hlo_passes" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {exact}".strip()
    importlib.import_module("jax").config.update("jax_enable_x64", True)
