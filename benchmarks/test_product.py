"""With `--full`: every optimizer of the family, on every number of elements, cut into every number
of tensors, and on every network, in every dtype, with every number of threads.

Contenders that find no room in memory are left out.
"""

import pytest
from networks import NETWORKS

from instep.commands.bench import Case
from instep.graph.dtypes import DTYPES

FAMILY = ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam", "AdamW")
ELEMENTS = (1_000, 10_000, 100_000, 1_000_000, 2**24, 2**27)
TENSORS = (1, 10, 200, 2_000)

#: A tensor has an element at least.
CUTS = [(elements, tensors) for elements in ELEMENTS for tensors in TENSORS if tensors <= elements]


@pytest.fixture(params=DTYPES)
def fields(request, threads, laboratory):
    return {"threads": threads, "backend": laboratory.backend, "dtype": request.param}


@pytest.mark.parametrize("optimizer", FAMILY)
@pytest.mark.parametrize(("elements", "tensors"), CUTS)
def test_elements_in_tensors(optimizer, elements, tensors, fields, report):
    report("product", Case.uniform(optimizer, tensors, elements // tensors, **fields))


@pytest.mark.parametrize("optimizer", FAMILY)
@pytest.mark.parametrize("network", NETWORKS)
def test_network(optimizer, network, fields, report):
    report("product of networks", Case(optimizer, NETWORKS[network](), network, **fields))
