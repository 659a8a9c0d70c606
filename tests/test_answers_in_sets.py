"""What an optimizer answers with is in the sets in which the parameters of its chain are kept."""

import copy
import itertools
import pickle
from typing import ClassVar

import bits
import engine_runs
import numpy as np
import pytest

from instep import (
    ASGD,
    SGD,
    Adam,
    Momentum,
    Optimizer,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Transform,
    arrays,
    chain,
    partition,
    transforms,
)
from instep.graph.errors import RuleError
from instep.transforms import (
    accumulate,
    average,
    cautious,
    clip_change,
    decoupled_weight_decay,
    group_soft_threshold,
    lookahead,
    project,
    project_halfspace,
    project_l1,
    project_modulus,
    project_norm,
    project_real,
    project_simplex,
    skip_nonfinite,
    soft_threshold,
    support,
    total_variation,
    trust_ratio,
)

MASK = np.arange(24).reshape(4, 6) % 3 > 0


class MeanOfModuli(Transform):
    """Keep the mean of the magnitudes at most 1: a set of a user's, over the tensor."""

    stage = "parameter"
    constrains = True

    most: float = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        mean = xp.sum(abs(w)) / xp.sum(xp.ones_like(xp.real(w)))
        return xp.where(mean > h.most, h.most / mean * w, w), {}


class MeanOfPath(Optimizer):
    """Gradient descent that answers with the mean of its path: a rule of a user's."""

    lr: float = 0.1

    slots = ("total",)
    scalar_slots: ClassVar = {"steps": 0.0}

    @staticmethod
    def scalars(h):
        return {"steps": h.steps + 1}

    @staticmethod
    def rule(xp, w, g, s, h):
        new = w - h.lr * g
        return new, {"total": s.total + new}

    @staticmethod
    def answer_rule(xp, w, s, h):
        return s.total / h.steps


#: Constraints, how far from 0 an array is outside of the set, and whether it has complex numbers.
SETS = {
    "bounds": (lambda: project(-0.25, 0.5), lambda w: np.maximum(w - 0.5, -0.25 - w), False),
    "ball": (lambda: project_norm(0.7), lambda w: np.linalg.norm(w) - 0.7, True),
    "circle": (lambda: project_modulus(1.0, 1.0), lambda w: abs(abs(w) - 1.0), True),
    "real": (project_real, lambda w: abs(np.imag(w)), True),
    "plane": (lambda: project_halfspace(1.0, -2.0), lambda w: np.sum(np.real(w)) + 2.0, True),
    "l1": (lambda: project_l1(1.5), lambda w: np.sum(abs(w)) - 1.5, True),
    "simplex": (lambda: project_simplex(3.0), lambda w: abs(np.sum(w) - 3.0) - np.min(w), False),
    "support": (lambda: support(MASK), lambda w: abs(w[~MASK]), True),
    "user's": (MeanOfModuli, lambda w: np.mean(abs(w)) - 1.0, True),
}

#: Rules that answer with another point than the parameter, and the number of the answer.
ANSWERS = {
    "average after": lambda one, **k: chain(Momentum(0.3), one, average(0.8), **k),
    "average before": lambda one, **k: chain(Momentum(0.3), average(0.8), one, **k),
    "average of Adam": lambda one, **k: chain(Adam(0.3), one, lookahead(2), average(0.5), **k),
    "ASGD": lambda one, **k: chain(ASGD(0.3, t0=0), one, **k),
    "ScheduleFreeSGD": lambda one, **k: chain(ScheduleFreeSGD(0.3), one, **k),
    "ScheduleFreeAdamW": lambda one, **k: chain(ScheduleFreeAdamW(0.3), one, **k),
    "a user's": lambda one, **k: chain(MeanOfPath(0.3), one, **k),
}


def problem(dtype):
    rng = np.random.default_rng(0)
    w = {"w": bits.ordinary(rng, (4, 6), dtype)}
    return w, [{"w": bits.ordinary(rng, (4, 6), dtype)} for _ in range(9)]


def cases():
    for (name, (_, _, is_complex)), answer in itertools.product(SETS.items(), ANSWERS):
        for dtype in ("float32", *(["complex64"] if is_complex else [])):
            yield pytest.param(name, answer, dtype, id=f"{name}-{answer}-{dtype}")


@engine_runs.every_engine
@pytest.mark.parametrize(("name", "answer", "dtype"), list(cases()))
def test_every_answer_is_in_the_set(name, answer, dtype, engine):
    engine_runs.require(engine)
    make, outside, _ = SETS[name]
    optimizer = ANSWERS[answer](make(), engine=engine)
    params, gradients = problem(dtype)
    for grads in gradients:
        optimizer.update(params, grads)
        answered = optimizer.answer(params)["w"]
        assert np.max(outside(answered.astype("c16" if "c" in dtype else "f8"))) < 1e-5
        with optimizer.answer_in_place(params):
            bits.assert_same_bits(params["w"], answered)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", ["ball", "l1", "plane", "support"])
def test_answers_have_the_same_bits_on_every_engine(name, answer, dtype, engine, threads):
    engine_runs.require(engine)
    runs = []
    for settings in ({"engine": "array_api"}, {"engine": engine, "threads": threads}):
        optimizer = ANSWERS[answer](SETS[name][0](), **settings)
        params, gradients = problem(dtype)
        for grads in gradients:
            optimizer.update(params, grads)
        runs.append(((params | {"answer": optimizer.answer(params)["w"]}), optimizer))
    engine_runs.assert_same_run(*runs)


# Schedule-free rules ------------------------------------------------------------------------


def test_a_bound_does_not_drive_the_answer_to_the_other_side():
    """The point z must not run away where the parameter cannot follow."""
    for make, sign in itertools.product((ScheduleFreeAdamW, ScheduleFreeSGD), (1.0, -1.0)):
        optimizer, w = chain(make(lr=0.1), project(0.0, 1.0)), np.array([0.5])
        for _ in range(1000):
            optimizer.update(w, np.array([sign]))
        nearest = 0.0 if sign > 0 else 1.0
        assert abs(optimizer.answer(w)[0] - nearest) < 0.01
        assert abs(w[0] - nearest) < 0.01


def follow(w, gradients, lr, beta, nearest):
    """Follow schedule-free descent whose fast iterate is kept in a set: z, their mean x, and y."""
    z, x, y, total = w.copy(), w.copy(), w.copy(), 0.0
    for g in gradients:
        total += lr**2
        share = lr**2 / total
        z = nearest(z - lr * g(y))
        x = (1 - share) * x + share * z
        y = (1 - beta) * z + beta * x
        yield y, x


def least_squares(rng):
    a, b = rng.standard_normal((20, 4)), rng.standard_normal(20)
    return lambda w: a.T @ (a @ w - b) / 20


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("make", "nearest"),
    [
        (lambda: project(-0.1, 0.1), lambda v: np.clip(v, -0.1, 0.1)),
        (lambda: project_norm(0.2), lambda v: v * min(1, 0.2 / np.linalg.norm(v))),
        (lambda: project_halfspace(1.0, -1.0), lambda v: v - max(v.sum() + 1, 0) / 4),
        (lambda: support(np.array([1.0, 0, 1, 0])), lambda v: v * [1, 0, 1, 0]),
    ],
    ids=["bounds", "ball", "plane", "support"],
)
def test_the_point_z_is_kept_in_the_set_and_the_others_follow(make, nearest, engine):
    engine_runs.require(engine)
    gradient = least_squares(np.random.default_rng(1))
    w = nearest(np.full(4, 0.05))
    optimizer = chain(ScheduleFreeSGD(0.5, beta=0.8), make(), engine=engine)
    for y, x in follow(w, [gradient] * 50, 0.5, 0.8, nearest):
        optimizer.update(w, gradient(w))
        np.testing.assert_allclose(w, y, rtol=0, atol=1e-13)
        np.testing.assert_allclose(optimizer.answer(w), x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("transform", [project_simplex(1.0), project_l1(0.3)])
def test_they_come_to_the_lowest_point_of_a_set_that_is_met_by_whole_arrays(transform):
    gradient = least_squares(np.random.default_rng(1))
    w, slow = np.full(4, 0.25), np.full(4, 0.25)
    optimizer, reference = chain(ScheduleFreeSGD(0.5), transform), chain(SGD(0.05), transform)
    for _ in range(3000):
        optimizer.update(w, gradient(w))
        reference.update(slow, gradient(slow))
    np.testing.assert_allclose(optimizer.answer(w), slow, atol=1e-3)
    (bucket,) = optimizer.explain(w).buckets
    assert bucket.passes == 3
    drafts = [store.array for graph in bucket.graphs for store in graph.stores]
    name = transform.name
    short = "shares" if name == "project_simplex" else "moduli"
    assert f"ScheduleFreeSGD_z_{name}_{short}" in drafts
    assert f"{name}_{short}" in drafts


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_several_sets_have_places_of_their_own(dtype, engine):
    engine_runs.require(engine)
    parts = [project_l1(5.0), project_l1(2.0, "last"), project_norm(1.0), project_l1(1.0)]
    runs = []
    for settings in ({"engine": "array_api"}, {"engine": engine}):
        optimizer = chain(ScheduleFreeAdamW(0.3), *parts, average(0.5), **settings)
        params, gradients = problem(dtype)
        for grads in gradients:
            optimizer.update(params, grads)
        answers = {str(i): optimizer.answer(params, which=i)["w"] for i in (0, 1)}
        assert all(np.sum(abs(x)) < 1 + 1e-5 for x in answers.values())
        runs.append((params | answers, optimizer))
    engine_runs.assert_same_run(*runs)


def test_without_constraints_the_bits_are_those_of_the_rule_alone():
    params, gradients = problem("float32")
    others = copy.deepcopy(params)
    chained, alone = chain(ScheduleFreeAdamW(0.3), average(0.5)), ScheduleFreeAdamW(0.3)
    for grads in gradients:
        chained.update(params, grads)
        alone.update(others, grads)
    bits.assert_same_bits(params["w"], others["w"])
    bits.assert_same_bits(chained.answer(params, which=0)["w"], alone.answer(others)["w"])


CHANGES = [
    *(lookahead(), decoupled_weight_decay(), cautious(), trust_ratio(), clip_change()),
    *(soft_threshold(), group_soft_threshold(), total_variation()),
]


@pytest.mark.parametrize("transform", CHANGES, ids=lambda transform: transform.name)
@pytest.mark.parametrize("make", [ScheduleFreeAdamW, ScheduleFreeSGD])
def test_what_would_move_the_parameter_alone_is_refused(make, transform):
    message = rf"{transform.name} changes the parameter, and {make.__name__} has other points .*, z"
    with pytest.raises(ValueError, match=message):
        chain(make(), transform)
    with pytest.raises(ValueError, match=message):
        chain(partition({"a": SGD(), "*": make()}), transform)
    with pytest.raises(ValueError, match=message):
        partition({"a": SGD(), "*": chain(make(), transform)})


def test_every_transform_after_an_optimizer_is_a_constraint_or_an_average_or_refused():
    after = [
        cls for name in transforms.__all__ if (cls := getattr(transforms, name)).stage != "gradient"
    ]
    known = {type(transform) for transform in CHANGES}
    others = {cls for cls in after if cls.constrains or cls.answer_rule}
    assert known | others == set(after)
    assert not known & others
    built_in = {type(make()).__name__ for make, _, _ in SETS.values()} - {"MeanOfModuli"}
    assert built_in == {cls.__name__ for cls in others if cls.constrains}


# The numbers of the constraints -------------------------------------------------------------


@engine_runs.every_engine
def test_constraints_have_the_numbers_of_the_last_step_and_of_the_leaf(engine):
    engine_runs.require(engine)
    optimizer = chain(
        SGD(1.0),
        average(0.0),
        project(upper=lambda t: 1.0 * t),
        overrides={
            "b": {"project_upper": np.array([0.25, 9.0])},
            "c*": {"project_upper": 0.5},
            "cc": {"project_upper": lambda t: 10.0 * t},
        },
        engine=engine,
    )
    params = {key: np.zeros(2) for key in ("a", "b", "c", "cc")}
    for t in (1, 2, 3):
        optimizer.update(params, {key: np.full(2, -4.0 * t) for key in params})
        answered = optimizer.answer(params)
        assert answered["a"].tolist() == [1.0 * t] * 2
        assert answered["b"].tolist() == params["b"].tolist()
        assert params["b"].tolist() == [0.25, min(9.0, 2.0 * t * (t + 1))]
        assert answered["c"].tolist() == [0.5] * 2
        assert answered["cc"].tolist() == params["cc"].tolist()
    optimizer.overrides = {}
    assert optimizer.answer(params)["cc"].tolist() == [3.0] * 2
    part = {"cc": params["cc"]}
    assert optimizer.answer(part)["cc"].tolist() == [3.0] * 2


@engine_runs.every_engine
def test_steps_are_counted_as_the_chain_counts_them(engine):
    engine_runs.require(engine)

    class UpToTheStep(Transform):
        """Keep elements below the number of the step, as the rule knows it."""

        stage = "parameter"
        constrains = True

        @staticmethod
        def rule(xp, w, g, s, h):
            return xp.minimum(w, h.t), {}

    optimizer = chain(
        *(skip_nonfinite(), accumulate(2), SGD(9.0), average(0.5), UpToTheStep()),
        project(upper=lambda t: 5.0 * t),
        engine=engine,
    )
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    for call in range(1, 8):
        grads = {"a": -np.ones(1), "b": None if call < 3 else -np.ones(1)}
        optimizer.update(params, grads)
        optimizer.update(params, {"a": np.full(1, np.nan), "b": -np.ones(1)})
        answered = optimizer.answer(params)
        assert answered["a"][0] == params["a"][0] == call // 2
        assert answered["b"][0] == params["b"][0] == max(0, (call - 2) // 2)


def test_a_branch_has_its_own_constraints_and_those_after_the_partition():
    optimizer = chain(
        partition(
            {
                "a": chain(SGD(1.0), average(0.5), project(upper=1.0)),
                lambda path, w: path == "b": ScheduleFreeSGD(1.0),
                "*": SGD(1.0),
            }
        ),
        project(upper=2.0),
    )
    params = {key: np.zeros(2) for key in "abc"}
    for _ in range(5):
        optimizer.update(params, {key: np.full(2, -9.0) for key in params})
    answered = optimizer.answer(params)
    found = {key: set(x.tolist()) for key, x in answered.items()}
    assert found == {"a": {1.0}, "b": {2.0}, "c": {2.0}}
    del params["b"], params["c"]
    assert set(optimizer.answer(params)["a"].tolist()) == {1.0}


@engine_runs.every_engine
def test_the_parts_of_complex_numbers_are_kept_too_where_they_are_pairs(engine):
    engine_runs.require(engine)
    optimizer = chain(ScheduleFreeSGD(0.5), project(-0.5, 0.25), complex="pairs", engine=engine)
    w, rng = np.zeros(9, "complex64"), np.random.default_rng(0)
    for _ in range(9):
        optimizer.update(w, bits.ordinary(rng, 9, "complex64"))
        parts = optimizer.answer(w).view("float32")
        assert parts.min() >= -0.5
        assert parts.max() <= 0.25
    assert optimizer.state_dict()["states"][""]["slots"]["ScheduleFreeSGD_z"].shape == (9, 2)


@pytest.mark.parametrize("how", ["state_dict", "file", "pickle"])
def test_a_chain_that_was_loaded_answers_alike(how, tmp_path):
    def make():
        return chain(ScheduleFreeAdamW(0.3), project_l1(0.5), average(0.9))

    params, gradients = problem("float32")
    one = make()
    for grads in gradients[:4]:
        one.update(params, grads)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(one))
    elif how == "file":
        one.save(tmp_path / "state.npz")
        other = make()
        other.load(tmp_path / "state.npz")
    else:
        other = make().load_state_dict(one.state_dict())
    for which in (0, 1):
        got, expected = (x.answer(params, which=which)["w"] for x in (other, one))
        bits.assert_same_bits(got, expected)


def test_every_library_answers_in_the_set(xp):
    rng = np.random.default_rng(0)
    w, g = (bits.ordinary(rng, (4, 6), "float32") for _ in "wg")
    optimizer = chain(ScheduleFreeSGD(0.5), project_l1(0.5), support(xp.asarray(MASK)))
    reference = chain(ScheduleFreeSGD(0.5), project_l1(0.5), support(MASK))
    params = {"w": xp.asarray(w)}
    for _ in range(3):
        params = optimizer.update(params, {"w": xp.asarray(g)})
        reference.update(w, g)
    bits.assert_same_bits(arrays.to_numpy(optimizer.answer(params)["w"]), reference.answer(w))


# What is refused ----------------------------------------------------------------------------


def test_a_bound_that_is_told_the_value_is_no_bound_of_an_answer():
    class Falling:
        needs_value = True

        def __call__(self, step, value):
            return value

    optimizer, w = chain(SGD(1.0), project(upper=Falling()), average(0.5)), np.zeros(1)
    optimizer.update(w, -np.ones(1), value=0.5)
    assert w[0] == 0.5
    with pytest.raises(ValueError, match=r"Chain.answer: project.upper is .* told the value"):
        optimizer.answer(w)


def test_a_constraint_remembers_nothing_and_works_on_parameters():
    for members in (
        {"stage": "gradient"},
        {"stage": "parameter", "slots": ("m",)},
        {"stage": "parameter", "scalar_slots": {"n": 0.0}},
        {"stage": "parameter", "tree_numbers": {"n": 0.0}},
        {"stage": "parameter", "guarded": True},
    ):
        rule = staticmethod(lambda xp, w, g, s, h: (w, {}))
        cls = type("kept", (Transform,), {"constrains": True, "rule": rule, **members})
        with pytest.raises(TypeError, match="kept: with constrains, it is called with other"):
            cls()
    with pytest.raises(TypeError, match="`constrains` must be True or False"):
        type("kept", (Transform,), {"stage": "parameter", "constrains": 1})


def test_points_are_slots():
    with pytest.raises(TypeError, match=r"Pointed: 'x' is one of the points, .* the slots z;"):
        type("Pointed", (Optimizer,), {"slots": ("z",), "points": ("x",)})


def test_a_constraint_sums_over_its_tensor_alone():
    class Within(Transform):
        stage = "parameter"
        constrains = True

        @staticmethod
        def rule(xp, w, g, s, h):
            return w / xp.tree_norm(w), {}

    with pytest.raises(ValueError, match=r"chain: Within sums over the tree, .* constrains = True"):
        chain(SGD(), Within()).update(np.ones(2), np.ones(2))


@engine_runs.every_engine
def test_a_rule_that_keeps_points_in_sets_names_them(engine):
    engine_runs.require(engine)

    class Forgetful(Optimizer):
        lr: float = 0.1

        slots = ("z",)

        @staticmethod
        def rule(xp, w, g, s, h):
            z = xp.constrained(s.z - h.lr * g)
            return w + z, {"z": z}

    w = np.zeros(2)
    assert Forgetful(engine=engine).update(w.copy(), np.ones(2)).tolist() == [-0.1] * 2
    with pytest.raises(RuleError, match=r"Forgetful.rule calls xp.constrained, .* `points`"):
        chain(Forgetful(), project(), engine=engine).update(w, np.ones(2))
