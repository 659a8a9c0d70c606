"""Runs go on from files as if they had not ended, to the bit."""

import json
import zipfile

import bits
import engine_runs
import numpy as np
import pytest
from minimizing import METHODS, SEARCHING, Steep, run, tree, values
from objectives import rosenbrock, start

from instep import (
    FISTA,
    LBFGS,
    SGD,
    Adam,
    Backtracking,
    ConjugateGradient,
    Optimizer,
    Status,
    StrongWolfe,
    chain,
    minimize,
)
from instep.transforms import average, project, support

every_method = pytest.mark.parametrize("name", METHODS)


def assert_same_end(got, expected):
    (result, params), (other, its) = got, expected
    assert values(result) == values(other)
    assert result.fun == other.fun
    for key, w in params.items():
        bits.assert_same_bits(w, its[key], key)


def stopped(name, path, how, dtype, steps, **settings):
    """Return the result of a run that ended in one way or another, and was saved."""
    disturb, callback, seen = (lambda n, found: found), None, []
    if how == "interrupted":  # at evaluations, in the midst of lines too

        def disturb(n, found):
            if n == steps:
                raise KeyboardInterrupt
            return found

    elif how == "not finite":

        def disturb(n, found):
            return (np.nan, found[1]) if n >= steps else found

    elif how in ("stopped", "in the callback"):

        def callback(result):
            if result.nit == steps:
                if how == "in the callback":
                    result.save(path)
                    seen.append(result.nit)
                    raise KeyboardInterrupt
                raise StopIteration

    most = steps if how == "steps" else 12
    _, result = run(
        METHODS[name](**settings), tree(dtype), most, disturb=disturb, callback=callback
    )
    if how == "in the callback":
        assert seen == [steps]
        assert result.status is Status.INTERRUPTED
    else:
        result.save(path)
    return result


@every_method
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize(
    "how", ["steps", "interrupted", "not finite", "stopped", "in the callback"]
)
@pytest.mark.parametrize("steps", [2, 3, 5, 8])
def test_every_end_goes_on_to_the_bit(tmp_path, name, dtype, how, steps):
    path = tmp_path / "run.npz"
    params = tree(dtype)
    whole = run(METHODS[name](), params, 12)[1], params
    ended = stopped(name, path, how, dtype, steps)
    assert ended.nit < 12
    other = {key: np.full_like(w, 7) for key, w in tree(dtype).items()}
    objective, result = run(METHODS[name](), other, 12, resume=path)
    assert result.x is other
    if how == "not finite" and name in SEARCHING:
        # It tried steepest descent before it gave up, and goes on with that.
        assert values(result)[: ended.nit + 1] == values(whole[0])[: ended.nit + 1]
        assert result.nit > ended.nit
    else:
        assert_same_end((result, other), whole)
    assert result.nfev == ended.nfev + len(objective.seen)
    assert result.history[-1].seconds >= ended.history[-1].seconds


@every_method
@engine_runs.every_engine
@pytest.mark.parametrize("steps", [3, 6])
def test_an_interrupted_run_goes_on_on_every_engine(tmp_path, engine, name, steps):
    engine_runs.require(engine)
    path, params = tmp_path / "run.npz", tree()
    whole = run(METHODS[name](engine=engine), params, 12)[1], params
    stopped(name, path, "interrupted", "float32", steps, engine=engine)
    other = tree()
    result = run(METHODS[name](engine=engine), other, 12, resume=path)[1]
    assert_same_end((result, other), whole)


@every_method
def test_a_run_of_any_library_goes_on(tmp_path, xp, name):
    path, params = tmp_path / "run.npz", tree("float32", xp)
    whole = run(METHODS[name](), params, 12)[1], params

    def interrupted(n, found):
        if n == 5:
            raise KeyboardInterrupt
        return found

    run(METHODS[name](), tree("float32", xp), 12, disturb=interrupted)[1].save(path)
    other = tree("float32", xp)
    result = run(METHODS[name](), other, 12, resume=path)[1]
    assert values(result) == values(whole[0])


@every_method
def test_a_run_goes_on_twice(tmp_path, name):
    path, params = tmp_path / "run.npz", tree()
    whole = run(METHODS[name](), params, 12)[1], params
    run(METHODS[name](), tree(), 3)[1].save(path)
    for steps in (3, 7, 12):
        other = tree()
        result = run(METHODS[name](), other, steps, resume=path)[1]
        result.save(path)
    assert_same_end((result, other), whole)


@pytest.mark.parametrize("beta", ["PR+", "DY", "HZ"])
def test_every_trial_of_conjugate_gradients_may_be_the_last(tmp_path, beta):
    """Near the end lines fail, and directions of steepest descent take over."""
    path = tmp_path / "run.npz"

    def method():
        return ConjugateGradient(beta, first_length=3.0)

    whole = minimize(rosenbrock, start(4, "float32"), method(), steps=60)
    for number in range(2, whole.nfev, 3):
        count = []

        def interrupted(x, number=number, count=count):
            count.append(1)
            if len(count) == number:
                raise KeyboardInterrupt
            return rosenbrock(x)

        ended = minimize(interrupted, start(4, "float32"), method(), steps=60)
        if ended.status is not Status.INTERRUPTED:
            break
        ended.save(path)
        result = minimize(rosenbrock, start(4, "float32"), method(), steps=60, resume=path)
        assert values(result) == values(whole), number
        assert result.status is whole.status


def test_a_function_of_ones_own_goes_on(tmp_path):
    path, scales = tmp_path / "run.npz", np.geomspace(1, 30, 6)

    def objective(x):
        return float((scales * np.cosh(x)).sum()), scales * np.sinh(x)

    def step(x, d):
        return -(scales * np.sinh(x)) @ d / (scales * np.cosh(x) * d @ d)

    def interrupted(x, d):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(1)
        return step(x, d)

    whole = minimize(objective, np.linspace(-1, 2, 6), ConjugateGradient("PR+", step), steps=9)
    asked = []
    ended = minimize(
        objective, np.linspace(-1, 2, 6), ConjugateGradient("PR+", interrupted), steps=9
    )
    assert ended.nit == 3
    ended.save(path)
    x = np.zeros(6)
    result = minimize(objective, x, ConjugateGradient("PR+", step), steps=9, resume=path)
    assert values(result) == values(whole)


@every_method
def test_frozen_leaves_and_missing_gradients(tmp_path, name):
    path = tmp_path / "run.npz"

    def trees():
        return {**tree(), "c": np.full(3, 2.0, "float32"), "d": np.float64(1.5)}

    def objective(p):
        value, grads = Steep()({key: p[key] for key in ("a", "b")})
        return value + p["d"] ** 4, grads | {"c": None, "d": 4 * p["d"] ** 3}

    def interrupted(p):
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt
        return objective(p)

    count, params = [], trees()
    whole = minimize(objective, params, METHODS[name](frozen=("b",)), steps=9), params
    minimize(interrupted, trees(), METHODS[name](frozen=("b",)), steps=9).save(path)
    other = trees()
    result = minimize(objective, other, METHODS[name](frozen=("b",)), steps=9, resume=path)
    assert_same_end((result, other), whole)
    assert (other["c"] == 2).all()
    bits.assert_same_bits(other["b"], tree()["b"], "b")


@every_method
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_parameters_with_finer_gradients(tmp_path, name, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    path = tmp_path / "run.npz"
    scales = np.linspace(1, 3, 8).astype("float32")

    def objective(w):
        wide = w.astype("float32")
        return float((scales * np.cosh(wide)).sum()), scales * np.sinh(wide)

    def begin():
        return np.linspace(-2, 3, 8).astype(dtype)

    x, y = begin(), begin()
    whole = minimize(objective, x, METHODS[name](), steps=6)
    minimize(objective, begin(), METHODS[name](), steps=3).save(path)
    result = minimize(objective, y, METHODS[name](), steps=6, resume=path)
    assert values(result) == values(whole)
    bits.assert_same_bits(x.view(np.uint16), y.view(np.uint16), "x")


# What a file has wins ----------------------------------------------------------------------------

MASK = np.array([0.0, 1.0, 1.0, 1.0])
#: How a run was begun, and how one is made that goes on: to the same bits.
BEGUN = {
    "Adam": (lambda: Adam(lr=0.01), lambda: Adam(lr=0.5)),
    "chain": (
        lambda: chain(Adam(lr=0.01), project(lower=0.0)),
        lambda: chain(Adam(), project(lower=1.0)),
    ),
    "history": (lambda: LBFGS(2, first_length=0.1), LBFGS),
    "line search": (lambda: LBFGS(line_search=StrongWolfe(curvature=0.1)), LBFGS),
    "bounds": (
        lambda: LBFGS(lower=0.0, upper={"*": 3.0}),
        lambda: LBFGS(lower=2.0, upper={"*": 4}),
    ),
    "bounds in an array": (lambda: LBFGS(lower=-MASK), lambda: LBFGS(lower=np.full(4, 2.0))),
    "FISTA": (
        lambda: FISTA(0.1, project(lower=0.0), restart=False),
        lambda: FISTA(prox=project(lower=2.0)),
    ),
    "prox": (
        lambda: FISTA(0.1, [support(MASK), project(upper=3.0)]),
        lambda: FISTA(1.0, [support(1 - MASK), project(upper=1.0)]),
    ),
    "CG": (
        lambda: ConjugateGradient("HZ", Backtracking(1e-3, factor=0.5)),
        lambda: ConjugateGradient(line_search=Backtracking()),
    ),
}


@pytest.mark.parametrize(("begun", "resumed"), BEGUN.values(), ids=BEGUN)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_what_the_file_has_wins(tmp_path, begun, resumed, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path, x, y = tmp_path / f"run{suffix}", start(4), start(4)
    whole = minimize(rosenbrock, x, begun(), steps=9)
    minimize(rosenbrock, start(4), begun(), steps=4).save(path)
    given = resumed()
    was = repr(given)
    result = minimize(rosenbrock, y, given, steps=9, resume=path)
    assert repr(values(result)) == repr(values(whole))
    bits.assert_same_bits(x, y, "x")
    assert isinstance(given, Optimizer) or repr(given) == was
    result.save(path)  # again, it is that of the file
    assert minimize(rosenbrock, start(4), resumed(), steps=12, resume=path).nit > 9


@every_method
def test_the_frozen_leaves_of_the_file_win(tmp_path, name):
    path = tmp_path / "run.npz"
    run(METHODS[name](frozen=("b",)), tree(), 3)[1].save(path)
    params = tree()
    run(METHODS[name](), params, 5, resume=path)
    bits.assert_same_bits(params["b"], tree()["b"], "b")
    with pytest.raises(ValueError, match="frozen"):
        run(METHODS[name](frozen=("a",)), tree(), 5, resume=path)


def test_a_rate_is_lowered_in_the_callback_which_is_called_where_a_run_goes_on(tmp_path):
    path, x, y = tmp_path / "run.npz", start(4), start(4)
    minimize(rosenbrock, start(4), Adam(lr=0.01), steps=4).save(path)
    optimizer, seen = Adam(), []

    def callback(now):
        seen.append(now.nit)
        optimizer.lr = 0.001

    minimize(rosenbrock, x, optimizer, steps=9, resume=path, callback=callback)
    assert seen == [4, 5, 6, 7, 8, 9]
    alone = Adam(lr=0.01)
    for step in range(9):
        alone.lr = 0.01 if step < 4 else 0.001
        value, grads = rosenbrock(y)
        alone.update(y, grads, value=value)
    bits.assert_same_bits(x, y, "x")


@pytest.mark.parametrize(
    ("begun", "resumed", "text"),
    [
        (LBFGS, lambda: LBFGS(lower=0.0), "bounds=False, and this is one with True"),
        (
            lambda: LBFGS(lower={"*": 0.0}),
            lambda: LBFGS(lower={"x": 0.0}),
            "overrides",
        ),
        (
            lambda: FISTA(prox=project()),
            FISTA,
            r"prox=\['project'\], and this is one with \[\]; resume with the same",
        ),
        (
            LBFGS,
            lambda: LBFGS(line_search=Backtracking()),
            "line_search=StrongWolfe, and this is one with Backtracking; resume with the same",
        ),
    ],
)
def test_what_cannot_take_the_place_of_another_is_an_error(tmp_path, begun, resumed, text):
    path, x = tmp_path / "run.npz", np.full(4, 7.0)
    minimize(rosenbrock, start(4), begun(), steps=2).save(path)
    with pytest.raises(ValueError, match=text):
        minimize(rosenbrock, x, resumed(), resume=path)
    assert (x == 7).all()


# Files that do not fit ---------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    def save(method):
        path = tmp_path / "run.npz"
        minimize(rosenbrock, start(4), method, steps=3).save(path)
        return path

    return save


def resume(path, method, params=None):
    return minimize(rosenbrock, start(4) if params is None else params, method, resume=path)


def test_another_method(saved):
    path = saved(ConjugateGradient())
    with pytest.raises(ValueError, match=r"is of a run of ConjugateGradient, and this is SGD"):
        resume(path, SGD(lr=1e-4))


@pytest.mark.parametrize("make", [ConjugateGradient, lambda: Adam(lr=0.01)])
def test_other_shapes_and_paths(saved, make):
    path = saved(make())
    x = start(6)
    with pytest.raises(ValueError, match=r"has the shape \(6,\), and in the file \(4,\)"):
        resume(path, make(), x)
    assert (x == start(6)).all()
    params = {"x": start(4)}
    with pytest.raises(ValueError, match="do not have the same paths"):
        minimize(lambda p: rosenbrock(p["x"]), params, make(), resume=path)
    assert (params["x"] == start(4)).all()


def seeing(params):
    """Return the objective of sums of squares, of both parts of complex numbers."""
    x = np.asarray(params)
    return float((abs(x) ** 2).sum()), (2 * x).astype(x.dtype)


@pytest.mark.parametrize("make", [LBFGS, FISTA, ConjugateGradient, lambda: Adam(lr=0.01)])
@pytest.mark.parametrize(
    ("saved", "given"),
    [
        ("complex128", "float64"),
        ("float64", "complex128"),
        ("float64", "float32"),
        ("float32", "float16"),
        ("float32", "float64"),
    ],
)
def test_other_dtypes(tmp_path, make, saved, given):
    path = tmp_path / "run.npz"
    minimize(seeing, np.ones(8, saved), make(), steps=1).save(path)
    x, method = np.full(8, 7, given), make()
    text = f"params is {given}, and in the file {saved}; resume with parameters of {saved}"
    with pytest.raises(ValueError, match=text) as caught:
        minimize(seeing, x, method, resume=path)
    assert str(path) in str(caught.value)
    assert x.dtype == given
    assert (x == 7).all()
    assert getattr(method, "t", 0) == 0
    assert minimize(seeing, np.zeros(8, saved), method, steps=2, resume=path).nit <= 2


@pytest.mark.parametrize("number", [2.0, 1.0 + 1j, np.float32(3)])
def test_numbers_go_on_as_what_they_are(tmp_path, number):
    path = tmp_path / "run.npz"

    def objective(params):
        value, grad = seeing(params["x"])
        return value, {"x": type(params["x"])(grad)}

    minimize(objective, {"x": number}, Adam(lr=0.1), steps=1).save(path)
    params = {"x": type(number)(0)}
    assert minimize(objective, params, Adam(lr=0.1), steps=2, resume=path).nit == 2
    assert type(params["x"]) is type(number)
    with pytest.raises(ValueError, match=r"params\['x'\] is .*, and in the file .*; resume with"):
        minimize(objective, {"x": np.float16(0)}, Adam(lr=0.1), resume=path)


@pytest.mark.parametrize("make", [LBFGS, FISTA, ConjugateGradient, lambda: Adam(lr=0.01)])
def test_a_file_that_fails_half_way_leaves_the_parameters(tmp_path, make):
    path = tmp_path / "run.npz"
    minimize(rosenbrock, start(4), make(), steps=3).save(path)
    without(path, lambda h, f: h["descent"].pop("gradient_norm"))
    x = np.full(4, 7.0)
    with pytest.raises(ValueError, match="damaged"):
        resume(path, make(), x)
    assert (x == 7).all()


@pytest.mark.parametrize("make", [ConjugateGradient, lambda: Adam(lr=0.01)])
def test_damaged_files(saved, tmp_path, make):
    path = saved(make())
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        x = start(4)
        with pytest.raises(ValueError, match=r"no file that Result\.save has written|is damaged"):
            resume(path, make(), x)
        assert (x == start(4)).all()


def without(path, change):
    """Change the header of a file."""
    with np.load(path) as archive:
        found = dict(archive)
    header = json.loads(str(found.pop("header")))
    change(header, found)
    np.savez(path, header=np.array(json.dumps(header)), **found)


@pytest.mark.parametrize("make", [ConjugateGradient, lambda: Adam(lr=0.01)])
def test_files_in_which_something_is_missing(saved, make):
    path = saved(make())
    whole = path.read_bytes()
    with np.load(path) as archive:
        header, names = json.loads(str(archive["header"])), [*archive.files]
    cases = [lambda h, f, key=key: h["descent"].pop(key) for key in header["descent"]]
    # How the method was made is missing in the first files that there were.
    needed = header.keys() - {"made_with", "rules"}
    cases += [lambda h, f, key=key: h.pop(key) for key in sorted(needed)]
    cases += [lambda h, f: h.update(history=[]), lambda h, f: h.update(history=[[1.0]])]
    cases += [
        lambda h, f, key=key: f.pop(key)
        for key in names
        if key != "header" and not key.startswith("grads")
    ]
    for change in cases:
        path.write_bytes(whole)
        without(path, change)
        with pytest.raises(ValueError, match=r"minimize: |Adam"):
            resume(path, make())


def test_a_run_that_has_taken_as_many_steps_already(saved):
    path = saved(Adam(lr=0.01))
    for steps in (0, 2, 3):
        result = minimize(rosenbrock, start(4), Adam(), steps=steps, resume=path)
        assert (result.status, result.nit) == (Status.STEPS, 3)
        text = f"the run in the file has taken 3 steps already, and steps={steps} counts these"
        assert text in result.message
    assert minimize(rosenbrock, start(4), Adam(), steps=4, resume=path).message == (
        "4 steps were taken"
    )


def test_files_of_optimizers_and_of_results_are_told_apart(saved, tmp_path):
    path = saved(Adam(lr=0.01))
    with pytest.raises(ValueError, match=r"is no file .* but one of Result\.save.*resume=path"):
        Adam().load(path)
    Adam().save(tmp_path / "optimizer.npz")
    with pytest.raises(ValueError, match=r"is no file .* but one of Optimizer\.save.*Adam\.load"):
        resume(tmp_path / "optimizer.npz", Adam())


def test_a_file_of_another_format(saved):
    path = saved(ConjugateGradient())
    without(path, lambda h, f: h.update(minimization=99))
    with pytest.raises(ValueError, match="has the format 99, expected 1"):
        resume(path, ConjugateGradient())


def test_what_is_no_file_at_all(tmp_path):
    with pytest.raises(FileNotFoundError):
        resume(tmp_path / "none.npz", ConjugateGradient())
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ValueError, match=r"no file that Result\.save has written"):
        resume(tmp_path / "other.npz", ConjugateGradient())


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda: Adam(lr=0.1), "float16"),
        (lambda: Adam(lr=0.1, master=True), "float16"),
        (lambda: chain(Adam(lr=0.1), average(0.9)), "float16"),
        (lambda: Adam(lr=0.1, complex="pairs"), "complex64"),
        (lambda: SGD(lr=0.1, complex="pairs"), "complex128"),
    ],
    ids=["Adam", "master", "average", "Adam in pairs", "SGD in pairs"],
)
def test_a_point_that_was_not_evaluated_is_kept_as_parameters_are(tmp_path, make, dtype):
    target = np.array([0.3, 2 + 1j]).astype(dtype) if "c" in dtype else np.array([0.3, -1], dtype)
    evaluations = []

    def value_and_grad(w):
        evaluations.append(None)
        if len(evaluations) == 3:
            raise KeyboardInterrupt
        return float((abs((w - target).astype("complex128")) ** 2).sum()), 2 * (w - target)

    file = tmp_path / "run.npz"
    minimize(value_and_grad, np.ones(2, dtype), make(), steps=6).save(file)
    resumed = minimize(value_and_grad, np.ones(2, dtype), make(), steps=6, resume=file)
    whole = minimize(value_and_grad, np.ones(2, dtype), make(), steps=6)
    assert resumed.x.dtype == dtype
    assert np.array_equal(resumed.x, whole.x)
