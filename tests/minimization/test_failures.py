"""Whatever comes from the objective has a name, and the last good point stays in hand."""

import bits
import engine_runs
import faults
import numpy as np
import pytest
from minimizing import METHODS, SEARCHING, Steep, on_host, run, tree, values

from instep import FISTA, LBFGS, Status, minimize
from instep.arrays import to_numpy
from instep.transforms import project

every_method = pytest.mark.parametrize("name", METHODS)


def assert_at_an_evaluated_point(objective, result, params):
    """Raise unless parameters are where the objective has the value of the result."""
    assert objective.value_of(params) == result.fun
    assert result.history[-1].value == result.fun
    assert result.nit == len(result.history) - 1


def spoiled(found, how):
    value, grads = found
    if how == "nan":
        return np.nan, grads
    if how == "inf":
        return np.inf, grads
    first, *rest = grads
    bad = grads[first] * np.inf if how == "gradient inf" else grads[first] * np.nan
    return value, {first: bad, **{key: grads[key] for key in rest}}


NOT_FINITE = ["nan", "inf", "gradient nan", "gradient inf"]


@every_method
@engine_runs.every_engine
@pytest.mark.parametrize("how", NOT_FINITE)
def test_what_is_not_finite_at_the_start(engine, name, how):
    engine_runs.require(engine)
    params = tree()
    before = on_host(params)
    objective, result = run(
        METHODS[name](engine=engine), params, disturb=lambda n, found: spoiled(found, how)
    )
    assert result.status is Status.NOT_FINITE
    assert not result.success
    assert "at the start" in result.message
    assert result.nit == 0
    assert len(objective.seen) == result.nfev == 1
    for key, w in params.items():
        bits.assert_same_bits(w, before[key], key)
    assert "not finite" in repr(result)


@every_method
@engine_runs.every_engine
@pytest.mark.parametrize("how", NOT_FINITE)
@pytest.mark.parametrize("first", [2, 3, 7])
def test_what_is_not_finite_from_some_evaluation_on(engine, name, how, first):
    engine_runs.require(engine)
    params = tree()
    objective, result = run(
        METHODS[name](engine=engine),
        params,
        disturb=lambda n, found: found if n < first else spoiled(found, how),
    )
    assert result.status is Status.NOT_FINITE
    assert np.isfinite(result.fun)
    assert_at_an_evaluated_point(objective, result, params)
    assert result.nfev == len(objective.seen)


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("how", NOT_FINITE)
@pytest.mark.parametrize("number", [2, 3, 7])
def test_one_trial_that_is_not_finite_makes_a_shorter_one(name, how, number):
    params = tree()
    objective, result = run(
        METHODS[name](),
        params,
        steps=60,
        tolerance=0.05,
        disturb=lambda n, found: spoiled(found, how) if n == number else found,
    )
    assert result.status is Status.CONVERGED
    assert_at_an_evaluated_point(objective, result, params)


@every_method
def test_every_library_keeps_the_last_good_point(xp, name):
    params = tree("float32", xp)
    objective, result = run(
        METHODS[name](), params, disturb=lambda n, found: found if n < 6 else (np.nan, found[1])
    )
    assert result.status is Status.NOT_FINITE
    assert result.x is params
    assert_at_an_evaluated_point(objective, result, params)


WRONG = {
    "nothing": (lambda value, grads: None, TypeError, "must return two things"),
    "value alone": (lambda value, grads: value, TypeError, "must return two things"),
    "no gradients": (lambda value, grads: (value, None), TypeError, "None in the place of the"),
    "no value": (lambda value, grads: (None, grads), TypeError, "must be a real number"),
    "complex": (lambda value, grads: (value + 0j, grads), TypeError, "must be a real number"),
    "another tree": (
        lambda value, grads: (value, {"a": grads["a"]}),
        (TypeError, ValueError),
        "'b'",
    ),
    "a list": (lambda value, grads: (value, list(grads.values())), (TypeError, ValueError), ""),
    "another shape": (
        lambda value, grads: (value, {**grads, "a": grads["a"][1:]}),
        (TypeError, ValueError),
        r"\['a'\]",
    ),
    "integers": (
        lambda value, grads: (value, {**grads, "a": np.ones(5, int)}),
        (TypeError, ValueError),
        r"\['a'\]",
    ),
}


@every_method
@pytest.mark.parametrize(("change", "error", "text"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_what_is_wrong_is_an_error(name, change, error, text, number):
    params, objective = tree(), Steep()
    objective.disturb = lambda n, found: change(*found) if n == number else found
    with pytest.raises(error, match=text or None) as caught:
        minimize(objective, params, METHODS[name](), steps=12)
    assert objective.value_of(params) is not None
    if number == 1:
        assert not hasattr(caught.value, "__notes__")
    else:
        (note,) = caught.value.__notes__
        assert note.startswith("minimize: the parameters are those after ")


def raising(kind):
    def disturb(value, grads):
        raise kind("no more")

    return disturb


#: What may come from an objective from some evaluation on.
FAILURES = {
    "an exception": raising(RuntimeError),
    "Ctrl-C": raising(KeyboardInterrupt),
    "shape": lambda value, g: (value, g[:5]),
    "complex": lambda value, g: (value, g + 0j),
    "a list": lambda value, g: (value, list(g)),
    "a tree": lambda value, g: (value, {"x": g}),
    "None": lambda value, g: (value, None),
    "a string": lambda value, g: ("1", g),
    "NaN": lambda value, g: (np.nan, g),
    "gradient NaN": lambda value, g: (value, g * np.nan),
}
#: Methods whose first steps, or rates, are too large.
ON_A_WAY = {
    **{name: METHODS[name] for name in ("LBFGS", "CG", "Adam")},
    "within bounds": lambda: LBFGS(4, lower=0.5, first_length=30.0),
    "FISTA": lambda: FISTA(1.0, project(lower=0.5)),
}


@pytest.mark.parametrize("name", ON_A_WAY)
@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_at_any_evaluation_leaves_a_point_of_the_run(name, kind):
    scales, start = np.geomspace(1, 30, 8), np.linspace(1.0, 3.0, 8)

    def objective(x):
        return 0.5 * float((scales * x**2).sum()), scales * x

    way = []
    minimize(
        objective,
        start.copy(),
        ON_A_WAY[name](),
        steps=11,
        callback=lambda now: way.append(now.x.copy()),
    )
    for number in (1, 2, 3, 5, 6, 9):
        x, count = start.copy(), []

        def failing(x, number=number, count=count):
            count.append(1)
            found = objective(x)
            return found if len(count) < number else FAILURES[kind](*found)

        try:
            taken = minimize(failing, x, ON_A_WAY[name](), steps=11).nit
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the kind is not tested)
            notes = getattr(error, "__notes__", [])
            assert len(notes) == (number > 1), number
            taken = int(notes[0].split()[-2]) if notes else 0
        if taken:
            bits.assert_same_bits(x, way[taken - 1], f"after {taken} steps, at {number}")
        else:
            assert np.array_equal(x, start), number


@every_method
def test_gradients_of_another_dtype_are_converted(name):
    ends = []
    for dtype in ("float32", "float64"):
        params = tree()
        _, result = run(
            METHODS[name](),
            params,
            disturb=lambda n, found, dtype=dtype: (
                found[0],
                {key: g.astype(dtype) for key, g in found[1].items()},
            ),
        )
        ends.append((params, values(result)))
    for key in ends[0][0]:
        bits.assert_same_bits(ends[0][0][key], ends[1][0][key], key)


@pytest.mark.parametrize("name", SEARCHING)
@engine_runs.every_engine
def test_a_gradient_of_the_wrong_sign_is_named(engine, name):
    engine_runs.require(engine)
    params = tree()
    before = on_host(params)
    objective, result = run(
        {**METHODS, "LBFGS": LBFGS}[name](engine=engine),
        params,
        disturb=lambda n, found: (found[0], {key: -g for key, g in found[1].items()}),
    )
    assert result.status is Status.NO_DESCENT
    assert "instep.check_gradient" in result.message
    assert_at_an_evaluated_point(objective, result, params)
    for key, w in params.items():
        bits.assert_same_bits(w, before[key], key)


@every_method
@engine_runs.every_engine
def test_a_gradient_of_zero_is_where_it_ends(engine, name):
    engine_runs.require(engine)
    params = {"a": np.zeros(3, "float32"), "b": np.zeros((2, 2), "float32")}
    objective, result = run(METHODS[name](engine=engine), params)
    assert result.status is Status.CONVERGED
    assert (result.nit, result.nfev, len(objective.seen)) == (0, 1, 1)


# Interrupts ---------------------------------------------------------------------------------------


@every_method
@engine_runs.every_engine
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8])
def test_an_exception_in_the_objective(engine, name, number):
    engine_runs.require(engine)

    def raising(n, found):
        if n == number:
            raise RuntimeError("no more")
        return found

    params, objective = tree(), Steep(raising)
    before = on_host(params)
    with pytest.raises(RuntimeError, match="no more") as caught:
        minimize(objective, params, METHODS[name](engine=engine), steps=12)
    if number == 1:
        for key, w in params.items():
            bits.assert_same_bits(w, before[key], key)
        return
    objective.seen.pop()  # this one failed
    assert objective.value_of(params) is not None
    (note,) = caught.value.__notes__
    taken = int(note.split()[-2])
    _, result = run(METHODS[name](engine=engine), before, steps=taken)
    assert result.fun == objective.value_of(params)
    for key, w in params.items():
        bits.assert_same_bits(w, before[key], key)


@every_method
@pytest.mark.parametrize("number", [2, 3, 5, 8])
def test_ctrl_c_in_the_objective_returns_what_there_is(xp, name, number):
    def interrupted(n, found):
        if n == number:
            raise KeyboardInterrupt
        return found

    params = tree("float32", xp)
    objective, result = run(METHODS[name](), params, disturb=interrupted)
    assert result.status is Status.INTERRUPTED
    objective.seen.pop()
    assert_at_an_evaluated_point(objective, result, params)


@every_method
def test_ctrl_c_before_there_is_anything_is_raised(name):
    def interrupted(n, found):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(METHODS[name](), tree(), disturb=interrupted)


@every_method
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, StopIteration])
def test_what_the_callback_raises(name, kind):
    error = kind("no more")
    params, objective, seen = tree(), Steep(), []

    def callback(result):
        seen.append(result)
        if result.nit == 4:
            raise error

    def go():
        return minimize(
            objective, params, METHODS[name](), steps=12, callback=callback, progress=False
        )

    if kind is RuntimeError:
        with pytest.raises(RuntimeError, match="no more") as caught:
            go()
        assert caught.value.__notes__ == ["minimize: the parameters are those after 4 steps"]
        assert objective.value_of(params) == seen[-1].fun
        return
    result = go()
    is_stop = kind is StopIteration
    assert result.status is (Status.STOPPED if is_stop else Status.INTERRUPTED)
    assert [one.nit for one in seen] == [1, 2, 3, 4]
    assert result.nit == 4
    assert ("no more" in result.message) == is_stop
    assert_at_an_evaluated_point(objective, result, params)
    assert result.jac is not None


@pytest.mark.slow
@every_method
@engine_runs.every_engine
def test_ctrl_c_at_any_line_leaves_an_evaluated_point(engine, name):
    engine_runs.require(engine)
    params = tree()
    _, whole = run(METHODS[name](engine=engine), params, steps=4)
    way, count = values(whole), 0

    def interrupted(fault):
        params, objective = tree(), Steep()
        try:
            with fault:
                result = minimize(
                    objective, params, METHODS[name](engine=engine), steps=4, progress=False
                )
        except KeyboardInterrupt:
            return params, objective, None
        return params, objective, result

    for fault, (found, objective, result) in faults.each_line(
        interrupted, [KeyboardInterrupt()], "_Run.step", stride=47
    ):
        value = objective.value_of(found)
        assert value is not None, fault.place
        if result is None:  # it came after the run, or in its very first lines
            continue
        count += result.status is Status.INTERRUPTED
        assert value == result.fun, fault.place
        assert values(result) == way[: result.nit + 1], fault.place
    assert count > 3


@every_method
def test_the_parameters_are_those_of_the_result(xp, name):
    params = tree("float64", xp)
    objective, result = run(METHODS[name](), params, steps=5)
    assert result.x is params
    assert result.status is Status.STEPS
    assert_at_an_evaluated_point(objective, result, params)
    assert to_numpy(result.jac["a"]).dtype == "float64"


@pytest.mark.parametrize("name", ON_A_WAY)
def test_a_start_whose_gradient_is_not_finite_has_a_value_and_the_leaf_a_name(name):
    params = {"good": np.ones(2), "bad": np.ones(2)}

    def objective(params):
        return 2.0, {"good": np.ones(2), "bad": np.array([1.0, np.nan])}

    result = minimize(objective, params, ON_A_WAY[name]())
    assert result.status is Status.NOT_FINITE
    assert result.fun == 2
    assert "the gradient of params['bad'] is not finite" in result.message
    assert (params["bad"] == 1).all()
