"""The grid: a line along each axis, through Adam on float32; `test_product` has all of it."""

import pytest
from networks import NETWORKS

from instep import optimizers
from instep.commands.bench import Case
from instep.graph.dtypes import DTYPES

FAMILY = ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam", "AdamW")
SIZES = (1_000, 10_000, 100_000, 1_000_000, 2**24)
TENSORS = (1, 10, 200, 2_000, 10_000)


@pytest.fixture
def fields(threads, laboratory):
    return {"threads": threads, "backend": laboratory.backend}


def pytest_generate_tests(metafunc):
    if "optimizer" in metafunc.fixturenames:
        names = optimizers.__all__ if metafunc.config.getoption("--full") else FAMILY
        metafunc.parametrize("optimizer", names)


def test_optimizer(optimizer, fields, report):
    report("limit", Case.uniform(optimizer, 1, 2**24, **fields))


@pytest.mark.parametrize("size", SIZES)
def test_size(size, fields, report):
    report("size", Case.uniform("Adam", 1, size, **fields))


@pytest.mark.parametrize("tensors", TENSORS)
def test_number_of_tensors(tensors, fields, report):
    report("tensors", Case.uniform("Adam", tensors, 100, **fields))


def test_network(fields, report):
    report("networks", Case("Adam", NETWORKS["ResNet-50"](), "ResNet-50", **fields))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype(dtype, fields, report):
    report("dtypes", Case.uniform("Adam", 1, 2**22, dtype=dtype, **fields))


@pytest.mark.parametrize("tensors_and_size", [(1, 2**20), (1_024, 2**10)], ids=str)
def test_same_elements_in_one_tensor_or_many(tensors_and_size, fields, report):
    report("shapes", Case.uniform("Adam", *tensors_and_size, **fields))
