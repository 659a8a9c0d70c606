"""The processor that code is compiled for, and what of it the text depends on."""

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

    @property
    def is_x86(self) -> bool:
        """Return whether it is of Intel's and AMD's family, of 64 bits."""
        return self.triple.partition("-")[0] in ("x86_64", "amd64")

    @property
    def is_arm(self) -> bool:
        """Return whether it is of ARM's family, of 64 bits."""
        return self.triple.partition("-")[0] in ("aarch64", "arm64")


@dataclass(frozen=True)
class Traits:
    """What the emitted text depends on: a processor, as the emitter sees it.

    Attributes
    ----------
    converts_half
        Whether it converts float16. x86 does since 2012 (F16C).
    orders_signaling
        Whether a comparison with a signaling NaN is false in whatever way LLVM combines it with
        others. So it is on x86; elsewhere operands of comparisons are made quiet.
    """

    converts_half: bool = True
    orders_signaling: bool = True
