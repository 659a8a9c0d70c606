"""Bounds of some parameters, beside others that have none: of other shapes, and complex ones."""

import bits
import numpy as np
import pytest

from instep import FISTA, LBFGS, Status, minimize
from instep.transforms import project, soft_threshold, support

BESIDE = {
    "LBFGS": lambda: LBFGS(3, lower={"v": 0.5}),
    "LBFGS, of all": lambda: LBFGS(3, lower={"*": 0.5, "o": None}, upper=np.inf),
    "FISTA": lambda: FISTA(0.3, project(), overrides={"v": {"project_lower": 0.5}}),
    "FISTA, and a support": lambda: FISTA(
        0.3, [support(), project()], overrides={"v": {"project_lower": 0.5}}
    ),
}
beside = pytest.mark.parametrize("name", BESIDE)


def objective(params):
    o, v = params["o"] - (1 - 2j), params["v"]
    value = (np.abs(o) ** 4).sum() + (v**2).sum() + (np.abs(o.sum()) ** 2)
    return float(value), {"o": 4 * np.abs(o) ** 2 * o + 2 * o.sum(), "v": 2 * v}


def params():
    return {"o": np.array([0j, 1j, 2 + 0j]), "v": np.ones(2)}


@beside
def test_complex_parameters_beside_bounds_are_free(name):
    found = params()
    result = minimize(objective, found, BESIDE[name](), tolerance=1e-5, steps=3000)
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(found["o"], 1 - 2j, atol=0.02)
    assert (found["v"] == 0.5).all()


@beside
@pytest.mark.parametrize("steps", [1, 4])
def test_their_runs_go_on_to_the_bit(tmp_path, name, steps):
    path = tmp_path / "run.npz"
    whole = minimize(objective, params(), BESIDE[name](), steps=9)
    minimize(objective, params(), BESIDE[name](), steps=steps).save(path)
    result = minimize(objective, params(), BESIDE[name](), steps=9, resume=path)
    for key in ("o", "v"):
        bits.assert_same_bits(result.x[key], whole.x[key], key)


@pytest.mark.parametrize(
    "make",
    [lambda: LBFGS(3, complex="pairs"), lambda: FISTA(0.3, complex="pairs")],
    ids=["LBFGS", "FISTA"],
)
def test_runs_of_pairs_go_on_from_an_interrupt(tmp_path, make):
    count, path = [], tmp_path / "run.npz"

    def interrupted(found):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return objective(found)

    whole = minimize(objective, params(), make(), steps=9)
    minimize(interrupted, params(), make(), steps=9).save(path)
    result = minimize(objective, params(), make(), steps=9, resume=path)
    bits.assert_same_bits(result.x["o"], whole.x["o"], "o")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (LBFGS(lower=0.5), r"LBFGS: lower is 0\.5 for params\['o'\], which is complex.* lower={"),
        (
            LBFGS(upper={"o": np.ones(3)}),
            r"LBFGS: upper is array\(float64, \(3,\)\) for params\['o'\]",
        ),
        (
            LBFGS(lower=np.zeros(4), frozen=("o",)),
            r"for params\['v'\], which has the shape \(2,\); name",
        ),
        (FISTA(1.0, project(lower=0.0)), r"project: lower is 0\.0 for params\['o'\].* overrides={"),
        (
            FISTA(1.0, [soft_threshold(), project(upper=1.0)]),
            r"project: upper is 1\.0 for params\['o'\], which is complex",
        ),
    ],
)
def test_what_no_bound_is_for_is_named_before_anything_is_evaluated(method, text):
    found = params()
    with pytest.raises(ValueError, match=text):
        minimize(lambda params: pytest.fail("it was evaluated"), found, method)
    for key, w in params().items():
        bits.assert_same_bits(found[key], w, key)


def test_frozen_parameters_need_no_bound():
    found = params()
    result = minimize(objective, found, LBFGS(lower=0.5, frozen=("o",)), tolerance=1e-6)
    assert result.success
    assert (found["v"] == 0.5).all()


def test_the_prox_of_parts_of_the_tree():
    mask = np.array([True, False, True])
    found = params()
    method = FISTA(0.1, support(), overrides={"o": {"support_mask": mask}})
    minimize(objective, found, method, steps=30)
    assert found["o"][1] == 0
    assert (np.abs(found["o"][[0, 2]]) > 0.5).all()
    assert (np.abs(found["v"]) < 0.1).all()


@pytest.mark.parametrize(
    ("overrides", "prox", "text"),
    [
        ({"o": {"lr": 1.0}}, support(), "lr is one number for all parameters"),
        ({"o": {"support_mask": 1.0}}, (), "overrides is of hyperparameters of prox"),
    ],
)
def test_overrides_are_of_the_prox(overrides, prox, text):
    with pytest.raises(ValueError, match=f"FISTA: {text}"):
        FISTA(0.1, prox, overrides=overrides)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (
            {"lower": 1, "upper": 0},
            r"lower must not be above upper, got 1\.0 and 0\.0; give bounds",
        ),
        ({"lower": {"v": 1}, "upper": {"v": 0}}, "lower must not be above upper"),
        ({"lower": np.ones(2), "upper": np.zeros(2)}, "lower must not be above upper"),
        ({"lower": np.nan}, "lower must be a number, got nan"),
        ({"upper": {"v": np.nan}}, "upper must be a number, got nan"),
        ({"lower": "0"}, "lower must be a number"),
        ({"lower": {"v": {}}}, r"lower\['v'\] must be a number, an array"),
    ],
)
def test_what_is_no_bound_is_refused_at_once(bounds, text):
    with pytest.raises((TypeError, ValueError), match=f"LBFGS: {text}"):
        LBFGS(**bounds)


def test_bounds_of_several_patterns_that_cross_are_refused_before_anything_is_evaluated():
    def value_and_grad(_):
        raise AssertionError

    method = LBFGS(lower={"a": 1.0}, upper={"a*": 0.0})
    with pytest.raises(ValueError, match=r"params\['a'\] lower is 1\.0 and upper 0\.0;"):
        minimize(value_and_grad, {"a": np.ones(2)}, method)
