"""The grid: optimizers, sizes, numbers of tensors, networks, dtypes and threads.

Without `--full` it is a part that takes minutes; with it, all of it.
"""

import pytest

from instep import optimizers
from instep.bench import Case
from instep.bench.networks import NETWORKS

FAMILY = ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam", "AdamW")
SIZES = (1_000, 10_000, 100_000, 1_000_000, 2**24)
TENSORS = (1, 10, 200, 2_000, 10_000)
FULL_SIZES = (10, 100, *SIZES, 2**22, 2**25, 2**26, 2**27)
DTYPES = ("float16", "float32", "float64")


def pytest_generate_tests(metafunc):
    full = metafunc.config.getoption("--full")
    values = {
        "optimizer": optimizers.__all__ if full else FAMILY,
        "main": FAMILY if full else ("Adam",),
        "size": FULL_SIZES if full else SIZES,
        "each": (10, 100, 1_000) if full else (100,),
        "tensors": TENSORS,
        "network": NETWORKS if full else ("ResNet-50",),
        "dtype": DTYPES,
    }
    for name, chosen in values.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, chosen)


def test_optimizer(optimizer, threads, laboratory, report):
    fields = {"threads": threads, "backend": laboratory.backend}
    report("limit", Case.uniform(optimizer, 1, 2**24, **fields))


def test_size(main, size, threads, laboratory, report):
    fields = {"threads": threads, "backend": laboratory.backend}
    report("size", Case.uniform(main, 1, size, **fields))


def test_number_of_tensors(main, tensors, each, threads, laboratory, report):
    fields = {"threads": threads, "backend": laboratory.backend}
    report("tensors", Case.uniform(main, tensors, each, **fields))


def test_network(main, network, threads, laboratory, report):
    fields = {"threads": threads, "backend": laboratory.backend}
    report("networks", Case(main, NETWORKS[network](), network, **fields))


def test_dtype(main, dtype, threads, laboratory, report):
    fields = {"threads": threads, "backend": laboratory.backend, "dtype": dtype}
    report("dtypes", Case.uniform(main, 1, 2**22, **fields))


@pytest.mark.parametrize("tensors_and_size", [(1, 2**20), (1_024, 2**10)], ids=str)
def test_same_elements_in_one_tensor_or_many(tensors_and_size, threads, laboratory, report):
    fields = {"threads": threads, "backend": laboratory.backend}
    report("shapes", Case.uniform("Adam", *tensors_and_size, **fields))
