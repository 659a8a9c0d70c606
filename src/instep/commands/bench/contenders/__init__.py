"""What is measured against each other: the kit, the memory itself, and the peers.

A peer is run as its documentation says that it is fastest: state made before, gradients in
place, arrays from its own allocator.
"""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence

from instep.commands.bench.cases import CHAIN, Case
from instep.commands.bench.clocks import Step


class Contender(ABC):
    """Something that can take the step of a case.

    Attributes
    ----------
    name
        How it is called in tables.
    package
        What must be importable.
    copies
        Memory that it takes for a plain optimizer, in arrays of the size of the parameters,
        temporaries included.
    """

    name: str
    package: str
    copies: int = 4

    def refuses(self, case: Case) -> str | None:
        """Return None, or why it cannot run the case."""
        if importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return self.lacks(case)

    @abstractmethod
    def lacks(self, case: Case) -> str | None:
        """Return None, or what it has not got that the case needs."""

    def memory(self, case: Case) -> int:
        """Return the bytes that it takes, about. The chain has an average beside the rest."""
        return (self.copies + (case.optimizer == CHAIN)) * case.state_nbytes

    @abstractmethod
    def prepare(self, case: Case) -> Step:
        """Make parameters, gradients and state, and return what takes a step."""


KIT = "instep"

#: Contenders that move the bytes of a step and compute nothing: the memory limit.
LIMITS = ("stream", "stream add")

#: Backend -> contenders, each by its module and class.
_KNOWN = {
    "numpy": {
        KIT: "kit.Kit",
        "stream": "streams.Stream",
        "stream add": "streams.Add",
        "torch fused": "torch_optim.Fused",
        "torch foreach": "torch_optim.Foreach",
        "torch loop": "torch_optim.Loop",
        "optax": "optax_jit.Optax",
        "numba": "numba_loop.Numba",
        "numexpr": "numexpr_blocks.Numexpr",
        "listing": "listing.Listing",
    },
    "cupy": {
        KIT: "kit.Kit",
        "stream": "cupy_kernels.Stream",
        "torch fused": "torch_optim.Fused",
        "torch foreach": "torch_optim.Foreach",
        "cupy.fuse": "cupy_kernels.Fuse",
        "kernel a tensor": "cupy_kernels.Elementwise",
        "listing": "listing.Listing",
    },
}

BACKENDS = tuple(_KNOWN)


def peers(backend: str) -> tuple[str, ...]:
    """Return the names of all contenders of a backend but the kit and the memory."""
    return tuple(name for name in _KNOWN[backend] if name != KIT and name not in LIMITS)


def knows(name: str, backend: str) -> bool:
    """Return whether a backend has a contender of this name."""
    return name in _KNOWN[backend]


def load(names: Sequence[str], backend: str) -> list[Contender]:
    """Return the contenders of these names."""
    found = []
    for name in names:
        module, _, kind = _KNOWN[backend][name].partition(".")
        found.append(getattr(importlib.import_module(f"{__name__}.{module}"), kind)())
    return found


def installed(backend: str) -> tuple[str, ...]:
    """Return the names of the peers whose packages are installed."""
    return tuple(
        contender.name
        for contender in load(peers(backend), backend)
        if importlib.util.find_spec(contender.package) is not None
    )
