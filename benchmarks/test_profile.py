"""Where the time of a step goes: the passes of a chain, and the parts of small steps."""

import breakdown
import pytest

from instep.commands.bench import Case
from instep.commands.bench.cases import CHAIN
from instep.commands.bench.measuring import free_memory
from instep.engines import available


@pytest.fixture(autouse=True)
def on_the_native_engine(laboratory):
    reason = available()["native"] or (laboratory.backend != "numpy" and "of NumPy arrays")
    if reason:
        pytest.skip(reason)


@pytest.fixture
def split(laboratory, replay):
    """Measure the parts of a step, keep them, and tell pytest-benchmark."""

    def tell(kind, case, budget):
        worker = laboratory.worker(case.threads)
        split_step = getattr(breakdown, f"{kind}_of_step")
        found = worker.ask(split_step, case=case.to_json(), budget=budget)
        rounds = found.pop("rounds")
        laboratory.profile[kind].append(found)
        replay(rounds, **found)
        return found

    return tell


def test_passes_of_the_chain(threads, laboratory, split):
    case = Case.uniform(CHAIN, 1, 2**25, threads=threads)
    if free_memory() < 20 * case.nbytes:  # five arrays each of the kit and of two streams
        pytest.skip("there is too little memory")
    split("passes", case, laboratory.long_budget)


@pytest.mark.parametrize("tensors_and_size", [(1, 10), (200, 1_000), (10_000, 100)], ids=str)
def test_parts_of_a_small_step(tensors_and_size, threads, laboratory, split):
    case = Case.uniform("Adam", *tensors_and_size, threads=threads)
    found = split("parts", case, laboratory.budget)
    assert set(found["parts"]) == set(breakdown.PARTS)
