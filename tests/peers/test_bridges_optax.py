"""State goes to optax and comes from there in mid-run, and both go on alike."""

import math
import operator
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import pytest
import textbook

import instep
from instep import chain
from instep.bridges.optax import from_optax, to_optax
from instep.transforms import average, clip_by_global_norm, weight_decay

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

pytestmark = pytest.mark.peers


@dataclass(frozen=True)
class Peer:
    """A rule of instep and its keywords, beside optax's function and its keywords."""

    rule: str
    peer: str
    ours: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)
    tolerance: float = 1e-12

    def __str__(self):
        return f"{self.rule}, {self.peer}({self.theirs})"

    def make(self):
        return getattr(instep, self.rule)(**{"lr": 0.1} | self.ours)

    def transform(self):
        lr = self.ours.get("lr", 0.1)
        return optax.with_extra_args_support(
            operator.attrgetter(self.peer)(optax)(lr, **self.theirs)
        )


_RMS = {"decay": 0.9, "eps": 1e-7, "eps_in_sqrt": False}

PEERS = [
    Peer("SGD", "sgd"),
    Peer("Momentum", "sgd", {"momentum": 0.8}, {"momentum": 0.8}),
    Peer("Nesterov", "sgd", {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}),
    Peer("Momentum", "sgd", {"momentum": 0.7, "lr_in_velocity": False}, {"momentum": 0.7}),
    Peer("AdaGrad", "adagrad", {"eps_in_sqrt": True, "eps": 1e-3}, {"eps": 1e-3}),
    Peer("RMSProp", "rmsprop", {}, _RMS),
    Peer("RMSProp", "rmsprop", {"centered": True}, _RMS | {"centered": True}),
    Peer(
        "RMSProp",
        "rmsprop",
        {"centered": True, "momentum": 0.5},
        _RMS | {"centered": True, "momentum": 0.5},
    ),
    Peer(
        "RMSProp",
        "rmsprop",
        {"momentum": 0.5, "nesterov": True},
        _RMS | {"momentum": 0.5, "nesterov": True},
    ),
    Peer("Adam", "adam", {"beta1": 0.5, "beta2": 0.75}, {"b1": 0.5, "b2": 0.75}),
    Peer("AdamW", "adamw", {"weight_decay": 0.25}, {"weight_decay": 0.25}),
    Peer("AdaDelta", "adadelta", {"lr": 1.0}, {"rho": 0.95, "eps": 1e-6}),
    Peer("RAdam", "radam", {"beta2": 0.9, "form": "epsilon"}, {"b2": 0.9}),
    Peer("AdaMax", "adamax", {"eps": 0.01, "eps_in_max": True}, {"eps": 0.01}),
    Peer("NAdam", "nadam", {"psi": math.inf, "beta1": 0.8}, {"b1": 0.8}),
    Peer("AMSGrad", "amsgrad", {"beta2": 0.75, "bias_correction": "before"}, {"b2": 0.75}),
    Peer(
        "AdaBelief",
        "adabelief",
        {"beta2": 0.5, "eps": 1e-3},
        {"b2": 0.5, "eps": 1e-3, "eps_root": 1e-3},
    ),
    Peer("Yogi", "yogi", {"beta2": 0.5}, {"b2": 0.5}),
    Peer("Lion", "lion", {"weight_decay": 0.25}, {"weight_decay": 0.25}),
    Peer("Signum", "signum", {"beta": 0.5}, {"beta": 0.5}),
    Peer("Adan", "adan", {"beta2": 0.5}, {"b2": 0.5, "eps_root": 0.0}),
    Peer("LARS", "lars", {"lr": 10.0, "momentum": 0.5}, {"momentum": 0.5}),
    Peer("LAMB", "lamb", {"weight_decay": 0.25}, {"weight_decay": 0.25}),
    Peer("NovoGrad", "novograd", {}, {"b1": 0.95, "b2": 0.98, "eps": 1e-8}),
    Peer("Fromage", "fromage"),
    Peer("OptimisticGD", "optimistic_gradient_descent", {"optimism": 0.5}, {"beta": 0.5}),
    Peer("PolyakSGD", "polyak_sgd"),
    Peer("AdEMAMix", "contrib.ademamix", {"beta3": 0.9, "alpha": 2.0}, {"b3": 0.9, "alpha": 2.0}),
    Peer("ADOPT", "contrib.adopt", {"beta1": 0.5, "eps": 0.5}, {"b1": 0.5, "eps": 0.5}),
    Peer("ScheduleFreeAdamW", "contrib.schedule_free_adamw", {"beta1": 0.5}, {"b1": 0.5}),
    Peer("ScheduleFreeSGD", "contrib.schedule_free_sgd", {"beta": 0.5}, {"b1": 0.5}),
    Peer(
        "COCOB",
        "contrib.cocob",
        {"lr": 0.5, "alpha": 10.0, "eps": 0.1},
        {"alpha": 10.0, "eps": 0.1},
    ),
    Peer("DoG", "contrib.dog", {"lr": 0.5, "movement": 0.1}, {"init_step": ("heuristic", 0.1)}),
    Peer("DoWG", "contrib.dowg", {"lr": 0.5, "distance": 0.5}, {"init_estim_sq_dist": 0.25}),
    Peer("MoMo", "contrib.momo", {"lr": 0.5, "lowest": 5.0}, {"lower_bound": 5.0}),
    Peer("MoMoAdam", "contrib.momo_adam", {"lowest": 5.0}, {"lower_bound": 5.0}),
    Peer("Prodigy", "contrib.prodigy", {"lr": 1.0, "initial": 0.01}, {"estim_lr0": 0.01}),
    Peer("DAdaptAdamW", "contrib.dadapt_adamw", {"lr": 1.0, "initial": 0.01}, {"estim_lr0": 0.01}),
    Peer(
        "Adafactor",
        "adafactor",
        {"relative_step": False},
        {"min_dim_size_to_factor": 1},
        tolerance=1e-6,  # optax computes the decay rate in float32
    ),
]


class Run:
    """The same parameters, here and there, with the same gradients."""

    def __init__(self, entry, dtype="float64"):
        self.rng, self.t, self.entry = np.random.default_rng(0), 0, entry
        self.params = {
            "b": {"y": self.draw((6, 3), dtype), "x": self.draw((4, 5), dtype)},
            "a": [self.draw((7,), dtype), (self.draw((3, 1), dtype),)],
        }
        self.there = jax.tree.map(jax.numpy.asarray, self.copied(self.params))
        self.transform = entry.transform()
        self.state = self.transform.init(self.there)
        self.update = jax.jit(self.transform.update)

    def draw(self, shape, dtype):
        return np.asarray(self.rng.standard_normal(shape), dtype)

    @staticmethod
    def copied(params):
        return jax.tree.map(np.array, params)

    def step(self, ours=None, *, there=True):
        self.t += 1
        base = self.params if ours is not None else self.copied(self.there)
        grads = jax.tree.map(lambda w: self.draw(w.shape, w.dtype) + w, base)
        if there:
            given = jax.tree.map(jax.numpy.asarray, self.copied(grads))
            updates, self.state = self.update(
                given, self.state, self.there, value=textbook.value(self.t)
            )
            self.there = optax.apply_updates(self.there, updates)
        if ours is not None:
            value = textbook.value(self.t) if ours.main.needs_value else None
            ours.update(self.params, grads, value=value)

    def come(self):
        self.params = self.copied(self.there)

    def go(self):
        self.there = jax.tree.map(jax.numpy.asarray, self.copied(self.params))

    def check(self, tolerance):
        ours, theirs = jax.tree.leaves(self.params), jax.tree.leaves(self.there)
        for w, other in zip(ours, theirs, strict=True):
            assert w.dtype == other.dtype
            np.testing.assert_allclose(w, other, rtol=tolerance, atol=tolerance)


def check_states(one, other, tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def cross(entry, dtype, tolerance):
    run, ours = Run(entry, dtype), entry.make()
    for _ in range(7):
        run.step()
    run.come()
    assert from_optax(ours, run.state, run.params, t=7 if uncounted(entry, ours) else None) is ours
    assert ours.t == 7
    check_states(to_optax(ours, run.transform.init(run.there)), run.state, tolerance)
    for _ in range(5):
        run.step(ours)
        run.check(tolerance)
    run.go()
    run.state = to_optax(ours, run.transform.init(run.there))
    for _ in range(5):
        run.step(ours)
        run.check(tolerance)


def uncounted(entry, ours):
    from instep.bridges.optax_rows import ROWS

    (row,) = (row for row in ROWS if row.rule is type(ours))
    return not row.counts


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_run_crosses_over_and_back(entry):
    cross(entry, "float64", entry.tolerance)


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_run_in_float32_crosses_over_and_back(entry):
    cross(entry, "float32", 1e-4)


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_run_that_began_here_crosses_over(entry):
    run, ours = Run(entry), entry.make()
    assert to_optax(ours, run.state) is run.state  # there is nothing before a step
    for _ in range(7):
        run.step(ours, there=False)
    run.go()
    run.state = to_optax(ours, run.state)
    for _ in range(5):
        run.step(ours)
        run.check(entry.tolerance)


def test_a_step_of_the_state_compiles_and_counts_on():
    entry = next(entry for entry in PEERS if entry.peer == "adam")
    run, ours = Run(entry), entry.make()
    for _ in range(3):
        run.step(ours, there=False)
    run.go()
    state = to_optax(ours, run.state)
    update = jax.jit(run.transform.update)
    _, new = update(run.there, state, run.there)
    assert int(new[0].count) == 4
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_a_state_is_found_in_chains_masks_and_injected_hyperparameters():
    params = {"a": jax.numpy.ones(3), "b": jax.numpy.ones(2)}
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    transforms = [
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule)),
        optax.inject_hyperparams(optax.adam)(learning_rate=schedule),
        optax.chain(optax.masked(optax.scale_by_adam(), {"a": True, "b": True}), optax.scale(-1.0)),
    ]
    for transform in transforms:
        state = transform.init(params)
        for _ in range(3):
            _, state = transform.update(params, state, params)
        ours = from_optax(instep.Adam(), state)
        assert ours.t == 3
        there = to_optax(ours, transform.init(params))
        # The rate that `inject_hyperparams` has in the state is that of the step before.
        both = [transform.update(params, one, params)[1] for one in (there, state)]
        check_states(*both, 1e-12)


def test_what_is_masked_there_has_no_state_here():
    params = {"a": jax.numpy.ones(3), "b": jax.numpy.ones(2)}
    transform = optax.masked(optax.scale_by_adam(), {"a": True, "b": False})
    _, state = transform.update(params, transform.init(params), params)
    ours = from_optax(instep.Adam(), state)
    assert [*ours.state_dict()["states"]] == ["a"]
    check_states(to_optax(ours, transform.init(params)), state, 1e-6)


def test_trees_keep_their_types_and_a_single_array_is_one():
    params = OrderedDict(b=jax.numpy.ones(2), a=jax.numpy.zeros(3))
    transform = optax.adam(0.1)
    _, state = transform.update(params, transform.init(params), params)
    ours = from_optax(instep.Adam(), state)
    states = ours.state_dict()["states"]
    assert {key: one["slots"]["m"].shape for key, one in states.items()} == {"a": (3,), "b": (2,)}
    check_states(to_optax(ours, transform.init(params)), state, 1e-7)
    _, state = transform.update(params["b"], transform.init(params["b"]), params["b"])
    ours = from_optax(instep.Adam(), state)
    ours.update(np.ones(2), np.ones(2))
    assert ours.t == 2


def test_bfloat16_comes_as_float32_and_goes_back():
    params = {"a": jax.numpy.ones(3, jax.numpy.bfloat16)}
    transform = optax.adam(0.1)
    _, state = transform.update(params, transform.init(params), params)
    ours = from_optax(instep.Adam(), state)
    assert ours.state_dict()["states"]["a"]["slots"]["m"].dtype == np.float32
    check_states(to_optax(ours, transform.init(params)), state, 1e-7)


def test_trace_goes_over_with_the_rate_of_the_next_step():
    schedule = instep.schedules.Linear(0.5, 0.1, steps=10)
    ours = instep.Momentum(lr=schedule)
    ours.update({"a": np.zeros(3)}, {"a": np.ones(3)})
    transform = optax.sgd(schedule(2), momentum=0.9)
    there = {"a": jax.numpy.zeros(3)}
    updates, _ = transform.update({"a": jax.numpy.ones(3)}, to_optax(ours, transform.init(there)))
    w = {"a": np.zeros(3)}
    ours.update(w, {"a": np.ones(3)})
    np.testing.assert_allclose(w["a"], updates["a"], rtol=1e-12)


# What is refused ------------------------------------------------------------------------------

PARAMS = {"a": np.ones((3, 2)), "b": np.ones(2)}


def state_of(transform, params=PARAMS, steps=1):
    given = jax.tree.map(jax.numpy.asarray, params)
    state = transform.init(given)
    for _ in range(steps):
        _, state = transform.update(given, state, given)
    return state


REFUSED = [
    (
        instep.Adam,
        lambda: state_of(optax.sgd(0.1, 0.9)),
        r"has TraceState\.trace.*Adam has nothing",
    ),
    (instep.Adam, lambda: state_of(optax.amsgrad(0.1)), "ScaleByAmsgradState"),
    (
        instep.Adam,
        lambda: state_of(optax.sgd(0.1)),
        r"no ScaleByAdamState\.count, which optax keeps",
    ),
    (
        instep.Adam,
        lambda: state_of(optax.chain(optax.scale_by_adam(), optax.scale_by_adam())),
        "twice",
    ),
    (
        instep.Adam,
        lambda: state_of(optax.chain(optax.adam(0.1), optax.trace(0.5))),
        r"TraceState\.trace",
    ),
    (
        instep.RMSProp,
        lambda: state_of(optax.rmsprop(0.1, momentum=0.5)),
        r"has 'TraceState\.trace'",
    ),
    (
        lambda: instep.RMSProp(momentum=0.5),
        lambda: state_of(optax.rmsprop(0.1)),
        r"has no 'TraceState\.trace'",
    ),
    (instep.Momentum, lambda: state_of(optax.sgd(0.1)), "."),
    (instep.Adam, lambda: 3, "state must be what init"),
    (instep.Adam, lambda: {"a": 3}, "be what init of an optimizer"),
    (instep.Tiger, lambda: state_of(optax.adam(0.1)), "no rule that is the same as Tiger"),
    (instep.AMSGrad, lambda: state_of(optax.amsgrad(0.1)), "bias_correction='after'"),
    (lambda: instep.Adam(amsgrad=True), lambda: state_of(optax.adam(0.1)), "amsgrad=True"),
    (
        lambda: instep.MoMo(lowest=1.0),
        lambda: optax.contrib.momo(0.1).init({"a": jax.numpy.ones(2)})._replace(count=1),
        r"MomoState\.lb=0\.0, and the optimizer 1\.0",
    ),
    (
        lambda: chain(instep.Adam(), average(0.5)),
        lambda: state_of(optax.adam(0.1)),
        "average, whose names begin with 'average_', keeps state of its own",
    ),
    (
        lambda: instep.Adafactor(relative_step=False),
        lambda: state_of(optax.adafactor(0.1)),
        "params",
    ),
]


@pytest.mark.parametrize(("make", "state", "text"), REFUSED)
def test_what_does_not_fit_is_an_error_that_changes_nothing(make, state, text):
    ours, given = make(), state()
    before = repr(ours.state_dict())
    if make is instep.Momentum:
        assert from_optax(ours, given).state_dict()["states"] == {}
        return
    with pytest.raises((TypeError, ValueError), match=text):
        from_optax(ours, given)
    assert repr(ours.state_dict()) == before


def test_steps_that_cannot_be_are_refused():
    state = state_of(optax.adam(0.1), steps=2)
    with pytest.raises(ValueError, match=r"t is 5, and the state counts \{2\}"):
        from_optax(instep.Adam(), state, t=5)
    with pytest.raises(ValueError, match="t must be an integer, at least 0, got -1"):
        from_optax(instep.Momentum(), state_of(optax.sgd(0.1, 0.9)), t=-1)
    first, *rest = state_of(optax.contrib.ademamix(0.1))
    with pytest.raises(ValueError, match="counts of the state differ"):
        from_optax(instep.AdEMAMix(), (first._replace(count=9), *rest))


def test_other_parameters_are_refused():
    state = state_of(optax.adam(0.1))
    with pytest.raises(ValueError, match="params has no 'a'"):
        from_optax(instep.Adam(), state, {"b": np.ones(2)})
    with pytest.raises(ValueError, match=r"of shape \(3, 2\), and it has \(2, 3\)"):
        from_optax(instep.Adam(), state, {"a": np.ones((2, 3)), "b": np.ones(2)})
    ours = from_optax(instep.Adam(), state)
    with pytest.raises(ValueError, match="the state has no parameter 'a'"):
        to_optax(ours, state_of(optax.adam(0.1), {"b": np.ones(2)}))
    with pytest.raises(ValueError, match=r"has no state of 'c'.*mask it"):
        to_optax(ours, state_of(optax.adam(0.1), PARAMS | {"c": np.ones(2)}))
    with pytest.raises(ValueError, match=r"of 'b' has shape \(5,\), and that of the optimizer"):
        to_optax(ours, state_of(optax.adam(0.1), PARAMS | {"b": np.ones(5)}))


def test_parameters_with_other_numbers_of_steps_are_refused():
    ours = instep.Adam()
    ours.update(PARAMS | {"b": np.ones(2)}, {"a": np.ones((3, 2)), "b": np.ones(2)})
    ours.update(PARAMS | {"b": np.ones(2)}, {"a": np.ones((3, 2)), "b": None})
    with pytest.raises(ValueError, match="took 1, 2 steps, for which optax has one count"):
        to_optax(ours, optax.adam(0.1).init(jax.tree.map(jax.numpy.asarray, PARAMS)))


def test_transforms_that_keep_nothing_may_stand_in_the_chain():
    make = lambda: chain(clip_by_global_norm(1.0), weight_decay(0.5), instep.Adam(lr=0.1))  # noqa: E731
    transform = optax.chain(
        optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.5), optax.adam(0.1)
    )
    state = state_of(transform, steps=3)
    ours = from_optax(make(), state)
    assert ours.t == 3
    check_states(
        to_optax(ours, transform.init(jax.tree.map(jax.numpy.asarray, PARAMS))), state, 1e-12
    )


@pytest.mark.parametrize(
    ("make", "transform"),
    [
        (lambda: instep.Adam(lr=0.1), optax.adam(0.1)),
        (lambda: instep.Momentum(lr=0.1), optax.sgd(0.1, momentum=0.9)),
        (lambda: instep.AdaBelief(lr=0.1), optax.adabelief(0.1)),
    ],
    ids=["Adam", "Momentum", "AdaBelief"],
)
def test_complex_numbers_cross_over_and_back(make, transform):
    rng = np.random.default_rng(0)
    draw = lambda: rng.standard_normal(5) + 1j * rng.standard_normal(5)  # noqa: E731
    there = {"w": jax.numpy.asarray(draw())}
    state, ours = transform.init(there), make()
    for t in range(9):
        g = {"w": draw()}
        if t == 3:
            here = {"w": np.array(there["w"])}
            from_optax(ours, state)
        if t == 6:
            state = to_optax(ours, transform.init(there))
        updates, state = transform.update(jax.tree.map(jax.numpy.asarray, g), state, there)
        there = optax.apply_updates(there, updates)
        if t >= 3:
            ours.update(here, g)
            np.testing.assert_allclose(here["w"], there["w"], rtol=1e-12)


# What is lost without a word ---------------------------------------------------------------------


def taken(transform, count, params):
    """Return the state after so many steps, and the parameters."""
    state = transform.init(params)
    for i in range(count):
        grads = jax.tree_util.tree_map(lambda x, i=i: (0.1 + i) * jax.numpy.ones_like(x), params)
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return state, params


@pytest.mark.parametrize("is_injected", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_the_count_of_a_schedule_is_the_number_of_steps(momentum, is_injected):
    schedule = optax.exponential_decay(0.1, 3, 0.5)
    sgd = optax.inject_hyperparams(optax.sgd) if is_injected else optax.sgd
    state, there = taken(sgd(schedule, momentum), 4, {"w": jax.numpy.ones(2)})

    def lr(step):
        return 0.1 * 0.5 ** ((step - 1) / 3)

    ours = instep.Momentum(lr=lr, lr_in_velocity=False) if momentum else instep.SGD(lr=lr)
    from_optax(ours, state)
    assert ours.t == 4
    with pytest.raises(ValueError, match="t is 9, and the state counts"):
        from_optax(ours, state, t=9)
    here = {"w": np.array(there["w"], np.float64)}
    ours.update(here, {"w": np.ones(2)})
    transform = sgd(schedule, momentum)
    updates, _ = transform.update({"w": jax.numpy.ones(2)}, state, there)
    np.testing.assert_allclose(here["w"], optax.apply_updates(there, updates)["w"], rtol=1e-6)


def test_counts_that_differ_are_refused():
    state, _ = taken(optax.adam(optax.constant_schedule(0.1)), 2, {"w": jax.numpy.ones(2)})
    adam, schedule = state
    with pytest.raises(ValueError, match="the counts of the state differ"):
        from_optax(instep.Adam(), (adam, schedule._replace(count=schedule.count + 1)))
    for count in (None, jax.numpy.ones(2, "int32"), 1.5):
        with pytest.raises(ValueError, match=r"ScaleByAdamState\.count must be a number of steps"):
            from_optax(instep.Adam(), (adam._replace(count=count),))


def test_hyperparameters_that_the_state_has_are_taken_over():
    transform = optax.inject_hyperparams(optax.adam)(learning_rate=0.1, b1=0.75)
    state, _ = taken(transform, 1, {"w": jax.numpy.ones(2)})
    state.hyperparams["learning_rate"] = jax.numpy.asarray(0.02)
    ours = from_optax(instep.Adam(lr=0.1, beta1=0.5), state)
    assert (ours.lr, ours.beta1) == (pytest.approx(0.02, rel=1e-6), 0.75)
    exact = from_optax(instep.Adam(lr=0.02, beta1=0.75), state)
    assert exact.lr == 0.02  # not the float32 next to it
    held = from_optax(instep.Adam(lr=lambda step: 0.3), state)
    assert callable(held.lr)


def test_a_used_state_is_not_left_as_it_is():
    state, _ = taken(optax.adam(0.1), 3, {"w": jax.numpy.ones(2)})
    with pytest.raises(ValueError, match=r"has taken steps; give what tx\.init"):
        to_optax(instep.Adam(), state)


def test_pairs_do_not_stand_for_complex_numbers():
    state, _ = taken(optax.adam(0.1), 1, {"w": jax.numpy.ones(2, "complex64")})
    ours = instep.Adam(complex="pairs")
    with pytest.raises(ValueError, match="make the optimizer with complex='modulus'"):
        from_optax(ours, state)
    with pytest.raises(ValueError, match="make the optimizer with complex='modulus'"):
        to_optax(ours, state)


def test_a_count_that_is_a_number_of_python_is_written_too():
    ours = instep.Adam(lr=0.1)
    ours.update({"w": np.ones(2)}, {"w": np.ones(2)})
    adam, rest = optax.adam(0.1).init({"w": jax.numpy.ones(2)})
    state = to_optax(ours, (adam._replace(count=0), rest))
    assert state[0].count == 1


def test_what_optax_does_not_factor_is_said():
    params = {"w": jax.numpy.ones((4, 5))}
    state, _ = taken(optax.adafactor(0.1), 1, params)
    with pytest.raises(ValueError, match="min_dim_size_to_factor=1"):
        from_optax(instep.Adafactor(lr=0.1, relative_step=False), state, params)
