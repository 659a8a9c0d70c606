"""The pages of the optimizers and the table of costs say what the code does."""

import importlib.util
import itertools
from pathlib import Path

import engine_runs
import pytest

import instep

DOCS = Path(__file__).parent.parent / "docs"

#: Optimizers whose first step, which explain shows, has no gradient before it, and so reads less.
FIRST_STEPS_DIFFER = {"ADOPT", "Adan", "MARS", "OptimisticGD", "SOAP"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("write_optimizers", DOCS / "write_optimizers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_those_that_the_code_makes(script):
    """Where this fails: python docs/write_optimizers.py."""
    pages = script.pages()
    assert {path.name for path in (DOCS / "optimizers").glob("*.md")} == set(pages)
    for name, text in pages.items():
        assert (DOCS / "optimizers" / name).read_text() == text, name


@pytest.mark.parametrize("name", instep.optimizers.__all__)
def test_every_optimizer_has_a_figure_of_its_path(script, name):
    """Where this fails: python docs/write_optimizers.py."""
    for surface, suffix in itertools.product(script.SURFACES, ("", "_dark")):
        assert 1_000 < script.figure_of(name, surface, suffix).stat().st_size < 30_000


@pytest.mark.parametrize("name", instep.optimizers.__all__)
def test_choosing_speaks_of_every_optimizer(name):
    assert f"`{name}`" in (DOCS / "choosing.md").read_text()


@pytest.mark.parametrize("name", instep.schedules.__all__)
def test_every_schedule_is_in_the_reference(name):
    assert f":: instep.schedules.{name}\n" in (DOCS / "schedules.md").read_text()


@pytest.mark.parametrize("engine", ["native", "blocked"])
def test_costs_are_those_that_explain_finds(script, engine):
    import numpy as np

    engine_runs.require(engine)
    for name in instep.optimizers.__all__:
        if name not in FIRST_STEPS_DIFFER:
            optimizer = getattr(instep, name)(engine=engine)
            explanation = optimizer.explain({"w": np.ones((3, 4), "float32")})
            _, passes = script.forms(name)[0]
            (bucket,) = explanation.buckets
            if name != "RAdam":  # its first step is not rectified
                assert bucket.graphs == passes("float32"), name
            assert bucket.bytes_per_element == sum(g.bytes_per_element for g in passes("float32"))
