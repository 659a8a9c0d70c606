"""Importing instep is cheap: no compiler, no array library but NumPy, no plotting."""

import subprocess
import sys

import cases

import instep

LATE = [
    *("llvmlite", "cupy", "jax", "torch", "matplotlib", "rich", "array_api_compat"),
    *("ml_dtypes", "concurrent.futures", "instep.engines", "instep.explain"),
]


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()


def test_import_loads_nothing_that_is_not_needed():
    program = f"""
import numpy, sys
before = set(sys.modules)
import instep
print(*sorted((set(sys.modules) - before) & set({LATE!r})))
"""
    assert run(program) == []


def test_a_step_on_numpy_loads_no_other_array_library():
    program = """
import sys
import numpy as np
import instep
instep.Adam(engine="blocked").update({"w": np.ones(3)}, {"w": np.ones(3)})
late = ("llvmlite", "cupy", "jax", "torch", "matplotlib", "array_api_compat")
print(*(name for name in late if name in sys.modules))
"""
    assert run(program) == []


def test_the_public_names_are_pinned():
    tested = [case.optimizer for case in cases.CLASSES]
    assert len(set(instep.__all__)) == len(instep.__all__)
    assert set(instep.__all__) == {
        *("Optimizer", "Transform", "chain", "partition", "schedules", "transforms", "__version__"),
        *("minimize", "LBFGS", "ConjugateGradient", "FISTA", "StrongWolfe", "Backtracking"),
        *("Result", "Record", "Status", "check_gradient", "GradientCheck", "LeafCheck"),
        *(cls.__name__ for cls in tested if cls.__module__.startswith("instep.")),
    }
    for name in instep.__all__:
        assert hasattr(instep, name)


def test_public_names_are_documented_and_know_where_they_live():
    for name in instep.__all__:
        thing = getattr(instep, name)
        if name != "__version__":
            assert thing.__doc__, name
            home = getattr(thing, "__module__", thing.__name__)
            assert home.startswith("instep."), name


def test_the_package_is_typed():
    from importlib.resources import files

    assert (files("instep") / "py.typed").is_file()
