"""The loop: when it ends, what it hands over, and what trees it takes."""

import builtins
import copy
import itertools
import os
import pickle
import pty
import subprocess
import sys

import bits
import engine_runs
import numpy as np
import pytest
from minimizing import METHODS, Steep, run, tree, values
from objectives import quadratic, rosenbrock, start

from instep import (
    FISTA,
    LBFGS,
    SGD,
    Adam,
    ConjugateGradient,
    Momentum,
    Optimizer,
    Status,
    chain,
    minimize,
)
from instep.transforms import average

every_method = pytest.mark.parametrize("name", METHODS)

# When it ends -------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_steps_are_counted(name, steps):
    objective, result = run(METHODS[name](), tree(), steps)
    assert result.status is Status.STEPS
    assert not result.success
    assert result.nit == steps == len(result.history) - 1
    assert result.nfev == len(objective.seen) == result.history[-1].evaluations
    assert f"{steps} steps" in result.message


@every_method
def test_a_small_gradient_ends_it(name):
    _, result = run(METHODS[name](), tree(), 500, tolerance=0.5)
    assert result.status is Status.CONVERGED
    assert result.success
    assert result.history[-1].gradient_norm <= 0.5
    assert all(one.gradient_norm > 0.5 for one in result.history[:-1])


@every_method
def test_a_small_change_ends_it(name):
    _, result = run(METHODS[name](), tree("float64"), 500, value_tolerance=1e-3)
    assert result.status is Status.STALLED
    assert result.success
    last, before = result.history[-1].value, result.history[-2].value
    assert abs(last - before) <= 1e-3 * max(abs(last), abs(before))


@every_method
def test_time_ends_it(tmp_path, monkeypatch, name):
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    _, result = run(METHODS[name](), tree(), 500, seconds=4)
    assert result.status is Status.TIME
    assert [one.seconds for one in result.history] == [1, 2, 3, 4]
    assert result.message == "4 seconds are over"
    result.save(tmp_path / "run.npz")
    _, result = run(METHODS[name](), tree(), 500, seconds=6, resume=tmp_path / "run.npz")
    assert result.status is Status.TIME
    assert 6 <= result.history[-1].seconds < 10
    _, result = run(METHODS[name](), tree(), 500, seconds=0)
    assert result.nit == 0


def test_history_is_what_was_there():
    norms, points = [], []

    def objective(x):
        value, g = quadratic(np.arange(1.0, 6.0))(x)
        return value, g

    def callback(result):
        points.append(result.x.copy())
        norms.append(np.linalg.norm(objective(result.x)[1]))
        assert result.status is Status.RUNNING
        assert result.fun == objective(result.x)[0]
        assert result["nit"] == len(points)

    x = np.zeros(5)
    result = minimize(objective, x, SGD(lr=0.1), steps=7, callback=callback)
    assert [one.gradient_norm for one in result.history[1:]] == pytest.approx(norms, rel=1e-14)
    way = [np.zeros(5), *points]
    lengths = [np.linalg.norm(b - a) for a, b in itertools.pairwise(way)]
    assert [one.step for one in result.history[1:]] == pytest.approx(lengths, rel=1e-14)
    np.testing.assert_array_equal(result.jac, objective(x)[1])


@pytest.mark.parametrize("make", [LBFGS, ConjugateGradient, FISTA, lambda: Adam(lr=0.01)])
@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_result_is_copied_and_pickled_whatever_the_objective(tmp_path, make, copied):
    objective = lambda x: rosenbrock(x)  # noqa: E731, PLW0108  (what no pickle holds)
    kept = []

    def callback(now):
        if now.nit == 3:
            kept.extend([copied(now), values(now)])

    whole = minimize(objective, start(4), make(), steps=6, callback=callback)
    got = copied(whole)
    plain = [{**one, "x": 0, "jac": 0} for one in (got, whole)]
    assert repr(plain[0]) == repr(plain[1])  # for FISTA knows no norm at the start: NaN
    assert (got.x == whole.x).all()
    assert repr(got) == repr(whole)
    kept[0].save(tmp_path / "run.npz")
    assert repr(values(kept[0])) == repr(kept[1])
    resumed = minimize(objective, start(4), make(), steps=6, resume=tmp_path / "run.npz")
    assert repr(values(resumed)) == repr(values(whole))
    bits.assert_same_bits(resumed.x, whole.x, "x")
    got.save(tmp_path / "end.npz")
    assert minimize(objective, start(4), make(), steps=6, resume=tmp_path / "end.npz").nit == 6


def test_a_history_ends_where_its_result_does_and_is_made_when_asked_for():
    seen = []
    whole = minimize(rosenbrock, start(4), steps=5, callback=seen.append)
    assert not any("history" in vars(one) for one in seen)
    for one in seen:
        assert isinstance(one.history, tuple)
        assert one.history == whole.history[: one.nit + 1]
        assert one.history is one.history


def test_readings_are_made_once_a_step(monkeypatch):
    made, readings = [], Adam.readings
    monkeypatch.setattr(
        Optimizer, "readings", property(lambda self: made.append(1) or readings.fget(self))
    )
    minimize(rosenbrock, start(4), Adam(lr=0.01), steps=7)
    assert len(made) == 8


def test_an_optimizer_goes_as_it_does_alone():
    for make in (lambda: Adam(lr=0.1), lambda: chain(Momentum(lr=1e-4), average(0.9))):
        x, y, optimizer = start(6), start(6), make()
        minimize(rosenbrock, x, make(), steps=20)
        for _ in range(20):
            value, g = rosenbrock(y)
            optimizer.update(y, g, value=value)
        bits.assert_same_bits(x, y, "x")


def test_a_pair_of_functions():
    x, y = start(4), start(4)
    pair = (lambda x: rosenbrock(x)[0], lambda x: rosenbrock(x)[1])
    assert values(minimize(pair, x, steps=9)) == values(minimize(rosenbrock, y, steps=9))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"steps": -1}, "steps must be an integer >= 0"),
        ({"steps": 1.5}, "steps must be an integer >= 0"),
        ({"tolerance": -1}, "tolerance must be a number >= 0"),
        ({"tolerance": float("nan")}, "tolerance must be a number >= 0"),
        ({"seconds": "1"}, "seconds must be a number >= 0"),
    ],
)
def test_settings_are_checked(arguments, text):
    with pytest.raises(ValueError, match=f"minimize: {text}"):
        minimize(rosenbrock, start(4), **arguments)


@pytest.mark.parametrize("method", [Adam, LBFGS, "lbfgs"])
def test_a_method_is_an_instance(method):
    with pytest.raises(TypeError, match="neither a method of minimization nor an optimizer"):
        minimize(rosenbrock, start(4), method)


def test_a_method_has_no_update():
    with pytest.raises(TypeError, match=r"call instep.minimize\(value_and_grad, params, Conj"):
        ConjugateGradient().update(start(4), start(4))


# Trees -------------------------------------------------------------------------------------------


def squares(p):
    """Return the sum of fourth powers of whatever is in a tree, and the gradients."""
    if isinstance(p, dict):
        found = {key: squares(child) for key, child in p.items()}
        return sum(value for value, _ in found.values()), {k: g for k, (_, g) in found.items()}
    if isinstance(p, (list, tuple)):
        found = [squares(child) for child in p]
        return sum(value for value, _ in found), [g for _, g in found]
    wide = np.asarray(p, complex)
    size = np.abs(wide) ** 2 + 1
    g = 4 * size * wide
    g = g if np.iscomplexobj(p) else g.real
    return float((size**2).sum()) - np.size(p), g.astype(np.asarray(p).dtype)


TREES = {
    "array": lambda: np.linspace(-1, 2, 7),
    "nested": lambda: {"a": {"b": np.ones(3), "c": [np.full(2, 2.0), np.ones((2, 2))]}},
    "list": lambda: [np.ones(3, "float32"), np.full((2, 3), -2.0)],
    "tuple": lambda: (np.ones(3), np.full(2, 3.0)),
    "no dimensions": lambda: {"a": np.array(2.0), "b": np.array(-1.0, "float32")},
    "empty": lambda: {"a": np.zeros(0), "b": np.ones(3), "c": np.zeros((2, 0), "float32")},
    "numbers": lambda: {"a": 2.0, "b": np.float32(-1.5), "c": np.ones(2), "d": 1 + 2j},
    "mixed": lambda: {"a": np.ones(3, "float32"), "b": np.ones(4), "c": np.ones(2, "complex64")},
    "strided": lambda: {"a": np.ones((6, 8))[::2, ::3], "b": np.ones((3, 4)).T},
}


@every_method
@engine_runs.every_engine
@pytest.mark.parametrize("which", TREES)
def test_trees_of_all_kinds(engine, name, which):
    engine_runs.require(engine)
    params = TREES[which]()
    first = squares(params)[0]
    result = minimize(squares, params, METHODS[name](engine=engine), steps=15)
    assert result.fun == squares(result.x)[0]
    assert result.fun < 0.5 * first
    assert result.x is params  # of a tuple of arrays, too


@every_method
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_parameters(name, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    w = np.linspace(-1, 2, 40).astype(dtype)
    first = float((w.astype("float32") ** 2).sum())

    def objective(w):
        wide = w.astype("float32")
        return float((wide**2).sum()), 2 * wide

    result = minimize(objective, w, METHODS[name](), steps=15)
    assert result.fun == objective(w)[0]
    assert result.fun < 0.5 * first


@every_method
def test_leaves_without_gradients_and_frozen_ones_stay(name):
    params = {"a": np.ones(3), "b": np.full(2, 5.0), "c": np.full(2, 7.0)}

    def objective(p):
        return float(p["a"] @ p["a"] + p["c"] @ p["c"]), {
            "a": 2 * p["a"],
            "b": None,
            "c": 2 * p["c"],
        }

    result = minimize(objective, params, METHODS[name](frozen=("c",)), steps=5)
    assert (params["b"] == 5).all()
    assert (params["c"] == 7).all()
    assert result.history[0].gradient_norm == pytest.approx(np.sqrt(12))


@every_method
def test_nothing_that_could_be_changed(name):
    with pytest.raises((TypeError, ValueError)):
        minimize(lambda p: (1.0, p), np.arange(3), METHODS[name]())
    fixed = np.ones(3)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"read-only|cannot be written"):
        minimize(lambda p: (float(p @ p), 2 * p), fixed, METHODS[name]())


def test_immutable_arrays_are_replaced_in_the_tree():
    jnp = pytest.importorskip("jax.numpy")
    for name, make in METHODS.items():
        given = jnp.asarray([1.0, -2.0])
        params = {"a": given}
        objective, result = run(make(), params, 5)
        assert result.x is params
        assert params["a"] is not given, name
        assert given.tolist() == [1.0, -2.0]
        assert objective.value_of(params) == result.fun
        alone = minimize(
            lambda w: (float((w**2).sum()), 2 * w), given, make(), steps=3, progress=False
        )
        assert alone.fun == float((alone.x**2).sum()), name


# What is shown ------------------------------------------------------------------------------------


def test_a_plot_shows_values_and_norms():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    _, result = run(LBFGS(), tree(), 20)
    axes = result.plot(label="one")
    value, norm = axes.lines
    assert axes.get_yscale() == "log"
    least = min(one.value for one in result.history)
    expected = [one.value - least for one in result.history if one.value > least]
    drawn = value.get_ydata()
    assert [y for y in drawn if y == y] == expected
    assert list(norm.get_ydata()) == [one.gradient_norm for one in result.history]
    assert list(norm.get_xdata()) == [one.evaluations for one in result.history]
    assert result.plot(axes, label="two", least=0.0) is axes
    assert len(axes.lines) == 4
    assert list(axes.lines[2].get_ydata()) == [one.value for one in result.history]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[::2] == ["one: value above the least", "two: value above the least"]
    matplotlib.pyplot.close(axes.figure)


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **more):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *args, **more)

    _, result = run(LBFGS(), tree(), 2)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'instep\[plot\]'"):
        result.plot()


PROGRAM = """
import numpy as np
from instep import Adam, minimize

def value_and_grad(w):
    return float(w @ w), 2 * w

result = minimize(value_and_grad, np.ones(3), Adam(lr=0.01), steps=50)
print("value", result.fun)
"""


def test_a_bar_is_shown_on_a_terminal():
    pytest.importorskip("rich")
    ours, theirs = pty.openpty()
    program = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux says so where the other end is closed
                break
            if not part:
                break
            seen += part
        assert process.stdout.read().startswith(b"value")
    os.close(ours)
    text = seen.decode()
    assert "50/50" in text
    assert "value" in text
    assert "gradient" in text


def test_nothing_is_shown_in_a_pipe():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert found.stderr == b""
    assert found.stdout.startswith(b"value")


def test_a_bar_that_cannot_be_shown(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="progress=True needs the package rich"):
        minimize(rosenbrock, start(4), progress=True)


def test_a_result_reads_like_one_of_scipy():
    objective, result = Steep(), None
    result = minimize(objective, tree(), steps=3)
    assert dict(result) == {name: getattr(result, name) for name in result}
    assert set(result) >= {"x", "fun", "jac", "nit", "nfev", "success", "status", "message"}
    assert result["fun"] == result.fun
    with pytest.raises(KeyError, match="a result has no 'hess'"):
        result["hess"]
