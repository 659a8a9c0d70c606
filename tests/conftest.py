"""What all tests share: array namespaces, Hypothesis profiles, and the settings of the peers."""

import gc
import importlib
import importlib.util
import os
from types import ModuleType

import engine_runs
import hypothesis
import pytest
import shares
import stand_in

# Set before JAX is imported: float64 is off by default there, and another platform than the
# CPU would round differently.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA divides by a number as multiplying by its reciprocal, which is not the same number. What it
# does by default is shown in tests/peers/test_arrays.py.
os.environ.setdefault("XLA_FLAGS", "--xla_disable_hlo_passes=algsimp")

# The first call of an engine compiles, and machines that run the tests are shared: no limits on
# time. The blob replays a failure that was seen on another machine.
hypothesis.settings.register_profile(
    "ci",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True)
def early_whole_steps(monkeypatch):
    """Take whole steps as soon as they can be: tests take few steps, and users many."""
    monkeypatch.setattr("instep.plan.whole.PATIENCE", 1)


NAMESPACES = {
    "numpy": "array_api_compat.numpy",
    "array_api_strict": "array_api_strict",
    "torch": "array_api_compat.torch",
    "jax.numpy": "jax.numpy",
    "cupy": "array_api_compat.cupy",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--xp",
        action="append",
        choices=NAMESPACES,
        help="run only the tests that take an array namespace, on this one (repeatable), "
        "and those that compare with other libraries",
    )
    parser.addoption(
        "--share",
        type=shares.share,
        default=(1, 1),
        metavar="NUMBER/COUNT",
        help="of the tests with parameters that are not slow run one share of so many, and all "
        "others",
    )
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the files that hold what the engines emit, to be reviewed as code",
    )


def why_missing(namespace: str) -> str | None:
    """Say why a namespace cannot be tested here, or None."""
    library = namespace.partition(".")[0]
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    return stand_in.why_no_cupy() if library == "cupy" else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `xp` on every array namespace that is there."""
    if "xp" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--xp")
    metafunc.parametrize("xp", chosen or list(NAMESPACES), indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--xp` and `--share` do not ask for."""
    chosen, share = config.getoption("--xp"), config.getoption("--share")
    wanted = {"xp", "cupy"} if "cupy" in (chosen or ()) else {"xp"}

    def is_changed_by_library(item: pytest.Item) -> bool:
        fixtures = getattr(item, "fixturenames", ())
        return not wanted.isdisjoint(fixtures) or item.get_closest_marker("peers") is not None

    def is_chosen(item: pytest.Item) -> bool:
        if chosen and not is_changed_by_library(item):
            return False
        is_divided = hasattr(item, "callspec") and item.get_closest_marker("slow") is None
        return not is_divided or shares.has(item.nodeid, *share)

    left_out = [item for item in items if not is_chosen(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if is_chosen(item)]


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what lives to the end: all tests, and all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """An array namespace; the test runs once on each, and is skipped where one is missing.

    One that was asked for by `--xp` has to be there: its absence fails.
    """
    missing = why_missing(request.param)
    if missing is None:
        return importlib.import_module(NAMESPACES[request.param])
    if request.config.getoption("--xp"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def cupy(request: pytest.FixtureRequest) -> ModuleType:
    """CuPy, on a GPU or on the stand-in for one; the test is skipped where there is neither."""
    missing = why_missing("cupy")
    if missing is None:
        return importlib.import_module("cupy")
    if request.config.getoption("--xp"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture
def eager_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the native engine share even little work among threads, in chunks of a cache line."""
    if engine_runs.why_not("native") is None:
        launch = importlib.import_module("instep.engines.native.launch")
        monkeypatch.setattr(launch, "worth_waking", engine_runs.all_threads)
        monkeypatch.setattr(launch, "SMALLEST_CHUNK", 64)
