"""The processor that code is compiled for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A processor, as LLVM names it.

    Attributes
    ----------
    triple
        Architecture, vendor and operating system, as in ``"x86_64-unknown-linux-gnu"``.
    cpu
        The model, as in ``"haswell"``.
    features
        What it has beyond, or lacks of, what the model has: ``"+fma,-avx512f"``.
    """

    triple: str
    cpu: str
    features: str = ""
