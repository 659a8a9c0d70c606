"""Processors whose machine code the tests read, on whatever machine they run."""

import re
from dataclasses import dataclass

import engine_runs
import pytest

LINUX = {"x86": "x86_64-unknown-linux-gnu", "arm": "aarch64-unknown-linux-gnu"}


@dataclass(frozen=True)
class Processor:
    """A processor, and the version of LLVM that knows it."""

    cpu: str
    family: str
    since: int = 0

    def __str__(self):
        return f"{self.family}-{self.cpu}"

    def target(self):
        """Return it as the native engine knows it."""
        engine_runs.require("native")
        import llvmlite.binding as llvm

        from instep.engines.native.target import Target

        if llvm.llvm_version_info[0] < self.since:
            pytest.skip(f"LLVM knows {self.cpu} from version {self.since} on")
        return Target(LINUX[self.family], self.cpu)

    def traits(self):
        """Return what the emitted text depends on."""
        target = self.target()
        from instep.engines.native.compile import traits

        return traits(target)

    def instructions(self, ir):
        """Return the instructions that LLVM makes of a module: mnemonic and operands."""
        target = self.target()
        from instep.engines.native.compile import assembly

        text = assembly(ir, target)
        lines = (re.sub(r"\s*(#|//).*", "", line).split() for line in text.splitlines())
        return [
            " ".join(words)
            for words in lines
            if words and not words[0].startswith(".") and not words[0].endswith(":")
        ]


BASELINE = Processor("x86-64", "x86")
HASWELL = Processor("haswell", "x86")
SKYLAKE = Processor("skylake-avx512", "x86")
SAPPHIRE_RAPIDS = Processor("sapphirerapids", "x86")  # AVX512-FP16: instructions on halves
ZEN_5 = Processor("znver5", "x86", since=19)
ARM = Processor("generic", "arm")
NEOVERSE_V2 = Processor("neoverse-v2", "arm")  # SVE2, and arithmetic on halves

X86 = [BASELINE, HASWELL, SKYLAKE, SAPPHIRE_RAPIDS, ZEN_5]
ALL = [*X86, ARM, NEOVERSE_V2]

on_each = pytest.mark.parametrize("processor", ALL, ids=str)
