"""Methods of minimization take the same way on every engine, bit for bit."""

import functools

import engine_runs
import pytest
from descents import DESCENTS, assert_same


@functools.cache
def expected(name):
    """Return the way with the library's own operations, which the others are compared with."""
    return DESCENTS[name].run(engine="array_api")


@pytest.mark.parametrize("name", DESCENTS)
@engine_runs.every_numpy_engine
def test_the_way_is_the_same_on_every_engine(name, engine, threads, eager_threads):
    engine_runs.require(engine)
    assert_same(DESCENTS[name].run(engine=engine, threads=threads), expected(name))
