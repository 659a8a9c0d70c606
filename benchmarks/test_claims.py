"""What the kit claims: a benchmark for each claim.

No claim fails a test: a time depends on what else the machine does. The summary shows what was
claimed and what was measured.
"""

from dataclasses import dataclass

import pytest
from networks import gpt2_small

from instep.commands.bench import Case
from instep.commands.bench.cases import CHAIN
from instep.commands.bench.contenders import KIT, LIMITS
from instep.graph.dtypes import DTYPES

TORCH = ("torch fused", "torch foreach", "torch loop")
LARGE = 2**25


@dataclass(frozen=True)
class Claim:
    """`quantity` is at least `goals[threads]`, for the case that these arguments make."""

    name: str
    optimizer: str
    tensors: int
    size: int
    against: tuple[str, ...]  # the fastest of these peers; none: the memory limit
    goals: dict[int, float]
    dtype: str = "float32"

    def case(self, threads, backend):
        fields = {"threads": threads, "backend": backend, "dtype": self.dtype}
        if self.tensors == 148:
            return Case(self.optimizer, gpt2_small(), "GPT-2 small", **fields)
        return Case.uniform(self.optimizer, self.tensors, self.size, **fields)

    @property
    def is_large(self):
        """Whether the caches serve nothing: the memory limit is measured in the same run."""
        elements = self.case(1, "numpy").elements
        return elements * DTYPES[self.dtype].itemsize >= LARGE * DTYPES["float32"].itemsize

    @property
    def subject(self):
        """What is measured, whatever it is compared with."""
        return self.optimizer, self.tensors, self.size, self.dtype


CLAIMS = [
    Claim("Adam, large, torch fused", "Adam", 1, LARGE, TORCH[:1], {1: 1.3, 2: 1.0}),
    *(
        Claim(f"{name}, large, torch's best", name, 1, LARGE, TORCH, {1: 1.2, 2: 1.0})
        for name in ("SGD", "Momentum", "AdaGrad", "RMSProp", "AdamW")
    ),
    Claim("Adam, large, memory limit", "Adam", 1, LARGE, (), {1: 0.9, 2: 0.95}),
    Claim(
        "Adam, large, complex64, memory limit",
        *("Adam", 1, LARGE // 2, (), {1: 0.9, 2: 0.9}),
        dtype="complex64",
    ),
    Claim("Adam, large, optax", "Adam", 1, LARGE, ("optax",), {1: 1.5, 2: 1.3}),
    Claim("Adam, large, plain listing", "Adam", 1, LARGE, ("listing",), {1: 6.0, 2: 6.0}),
    Claim("Adam, 200 small, torch fused", "Adam", 200, 1000, TORCH[:1], {1: 5.0, 2: 5.0}),
    Claim("Adam, 200 small, optax", "Adam", 200, 1000, ("optax",), {1: 7.0, 2: 7.0}),
    Claim("Adam, 10,000 tiny, torch fused", "Adam", 10_000, 100, TORCH[:1], {1: 8.0, 2: 8.0}),
    Claim("Adam, one tiny, torch fused", "Adam", 1, 10, TORCH[:1], {1: 5.0}),
    Claim("Adam, one tiny, plain listing", "Adam", 1, 10, ("listing",), {1: 0.8}),
    Claim("AdamW, GPT-2 small, torch fused", "AdamW", 148, 0, TORCH[:1], {1: 1.2, 2: 1.0}),
    *(
        Claim(f"Adam, {size:,} elements, Numba", "Adam", 1, size, ("numba",), {1: 1.0, 2: 1.0})
        for size in (10, 1000, 100_000, 1_000_000, 2**24)
    ),
    Claim("Adam, 100,000 elements, torch fused", "Adam", 1, 100_000, TORCH[:1], {2: 1.5}),
    Claim("Chain, large, torch's best", CHAIN, 1, LARGE, TORCH, {1: 1.5, 2: 1.5}),
    Claim("Chain, 200 small, torch's best", CHAIN, 200, 1000, TORCH, {1: 3.0, 2: 3.0}),
]

#: Subject of claims -> their contenders: they are measured once, together.
TOGETHER: dict[tuple[str, int, int, str], dict[str, None]] = {}
for _claim in CLAIMS:
    _names = TOGETHER.setdefault(_claim.subject, {KIT: None})
    _names |= dict.fromkeys((*_claim.against, *(LIMITS if _claim.is_large else ())))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_claim(claim, threads, laboratory, report):
    if laboratory.backend == "numpy" and threads == 1 and 1 not in claim.goals:
        pytest.skip("nothing is claimed")
    if threads > 1 and 2 not in claim.goals:
        pytest.skip("nothing is claimed of several threads")
    names = TOGETHER[claim.subject]
    budget = laboratory.long_budget if claim.is_large else None
    result = report("claims", claim.case(threads, laboratory.backend), names, budget)
    measured = result.ratio(*claim.against) if claim.against else result.share
    if measured is None:
        reasons = {result.skipped.get(name, f"{name} was left out") for name in claim.against}
        pytest.skip("; ".join(sorted(reasons)) or "the memory limit was left out")
    goal = claim.goals[min(threads, 2)]
    at_limit = result.ratio_at_limit(*(claim.against or LIMITS))
    laboratory.enter(claim.name, result, measured, goal, at_limit)


def test_one_tiny_tensor_takes_less_than_ten_microseconds(laboratory, report):
    names = TOGETHER["Adam", 1, 10, "float32"]
    result = report("claims", Case.uniform("Adam", 1, 10, backend=laboratory.backend), names)
    laboratory.enter("Adam, one tiny: steps in 10 us", result, 1e-5 / result.median(), 1.0)


def test_ten_thousand_tensors_take_less_than_twelve_times_a_thousand(laboratory, report):
    fewer, more = (Case.uniform("Adam", n, 100, backend=laboratory.backend) for n in (1000, 10_000))
    few, many = laboratory.result("claims", fewer, (KIT,)), report("claims", more, (KIT,))
    laboratory.enter(
        "Adam, 10,000 tiny: 12 times 1,000", many, 12 * few.median() / many.median(), 1.0
    )
