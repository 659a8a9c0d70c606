"""State goes to Keras, on JAX, and comes from there in mid-run, and both go on alike."""

import os
from dataclasses import dataclass, field

import numpy as np
import pytest

import instep
from instep import chain
from instep.bridges.keras import from_keras, to_keras
from instep.transforms import clip_by_global_norm, decoupled_weight_decay

pytest.importorskip("jax")
os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")

pytestmark = [
    pytest.mark.peers,
    # From Keras' own get_config, of its own variables.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SHAPES = {"d/velocity": (3, 2), "a": (4, 5), "b": (7,)}


@pytest.fixture(autouse=True)
def float64():
    """Let Keras keep its scalars in float64, too."""
    keras.backend.set_floatx("float64")
    yield
    keras.backend.set_floatx("float32")


@dataclass(frozen=True)
class Peer:
    """What makes an optimizer of instep, and the class of Keras with its keywords."""

    make: object
    peer: str
    theirs: dict = field(default_factory=dict)
    tolerance: float = 1e-12

    def __str__(self):
        return f"{self.make().main.name}, {self.peer}({self.theirs})"


def hat(rule, **keywords):
    return lambda: rule(form="epsilon_hat", **keywords)


_MOVED = {"beta_1": 0.8, "beta_2": 0.75, "epsilon": 1e-3}

PEERS = [
    Peer(instep.SGD, "SGD"),
    Peer(instep.Momentum, "SGD", {"momentum": 0.8}),
    Peer(instep.Nesterov, "SGD", {"momentum": 0.8, "nesterov": True}),
    Peer(
        lambda: instep.RMSProp(eps_in_sqrt=True),
        "RMSprop",
        {"rho": 0.75, "momentum": 0.5, "epsilon": 1e-3},
    ),
    Peer(lambda: instep.RMSProp(eps_in_sqrt=True), "RMSprop", {"rho": 0.75}),
    Peer(lambda: instep.RMSProp(eps_in_sqrt=True), "RMSprop", {"centered": True}),
    Peer(lambda: instep.AdaGrad(eps_in_sqrt=True), "Adagrad", {"epsilon": 1e-3}),
    Peer(instep.AdaDelta, "Adadelta", {"rho": 0.75}),
    Peer(hat(instep.Adam), "Adam", _MOVED),
    Peer(hat(instep.Adam), "Adam", _MOVED | {"amsgrad": True}),
    Peer(
        lambda: chain(instep.Adam(form="epsilon_hat"), decoupled_weight_decay()),
        "Adam",
        {"weight_decay": 0.25},
    ),
    Peer(hat(instep.AMSGrad), "Adam", {"beta_2": 0.75, "amsgrad": True}),
    Peer(hat(instep.AdamW), "AdamW", _MOVED | {"weight_decay": 0.25}),
    Peer(lambda: instep.NAdam(psi=1.0), "Nadam", _MOVED),
    Peer(instep.AdaMax, "Adamax", _MOVED),
    Peer(instep.Lion, "Lion", {"beta_1": 0.8, "weight_decay": 0.25}),
    Peer(lambda: instep.LAMB(weight_decay=0), "Lamb", _MOVED),
    # Keras takes means and norms in float32, whatever the dtype.
    Peer(instep.Adafactor, "Adafactor", {"beta_2_decay": -0.5, "clip_threshold": 0.25}, 1e-6),
]


class Run:
    """The same parameters, here and there, with the same gradients."""

    def __init__(self, dtype="float64"):
        self.rng = np.random.default_rng(0)
        self.params = {n: self.draw(shape, dtype) for n, shape in SHAPES.items()}
        self.variables = {
            name: keras.Variable(w.copy(), dtype=dtype, name=name.replace("/", "_"))
            for name, w in self.params.items()
        }

    def draw(self, shape, dtype):
        return np.asarray(self.rng.standard_normal(shape), dtype)

    def there(self, peer, **keywords):
        made = getattr(keras.optimizers, peer)(**{"learning_rate": 0.03} | keywords)
        made.build(list(self.variables.values()))
        return made

    def step(self, ours=None, theirs=None):
        grads = {n: self.draw(w.shape, w.dtype) for n, w in self.params.items()}
        if theirs is not None:
            given = [keras.ops.convert_to_tensor(g) for g in grads.values()]
            theirs.apply(given, list(self.variables.values()))
        if ours is not None:
            ours.update(self.params, grads)

    def come(self):
        self.params = {name: np.asarray(v).copy() for name, v in self.variables.items()}

    def go(self):
        for name, v in self.variables.items():
            v.assign(self.params[name])

    def check(self, tolerance):
        for name, w in self.params.items():
            other = np.asarray(self.variables[name])
            np.testing.assert_allclose(w, other, rtol=tolerance, atol=tolerance, err_msg=name)


def check_variables(one, other, tolerance):
    for x, y in zip(one.variables, other.variables, strict=True):
        if type(one).__name__ == "Adafactor" and x.name.endswith("velocity") and x.ndim > 1:
            continue  # what a step makes of the means
        new, old = np.asarray(x), np.asarray(y)
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        np.testing.assert_allclose(new, old, rtol=tolerance, atol=tolerance)


def cross(entry, dtype, tolerance):
    run, ours = Run(dtype), entry.make()
    theirs = run.there(entry.peer, **entry.theirs)
    for _ in range(7):
        run.step(theirs=theirs)
    run.come()
    assert from_keras(ours, theirs, [*SHAPES]) is ours
    assert ours.t == 7
    for _ in range(5):
        run.step(ours, theirs)
        run.check(tolerance)
    again = run.there(entry.peer, **entry.theirs)
    run.go()
    assert to_keras(ours, again, [*SHAPES]) is again
    assert int(np.asarray(again.iterations)) == 12
    check_variables(again, theirs, tolerance)
    for _ in range(5):
        run.step(ours, again)
        run.check(tolerance)


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_run_crosses_over_and_back(entry):
    cross(entry, "float64", entry.tolerance)


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_run_in_float32_crosses_over_and_back(entry):
    keras.backend.set_floatx("float32")
    cross(entry, "float32", 1e-4)


def test_before_a_step_there_are_hyperparameters_alone():
    run = Run()
    ours = from_keras(instep.SGD(), run.there("SGD", learning_rate=0.5), [*SHAPES])
    assert (ours.t, ours.lr) == (0, 0.5)
    theirs = run.there("SGD")
    to_keras(ours, theirs, [*SHAPES])
    assert float(np.asarray(theirs.learning_rate)) == 0.5


def test_schedules_stay_on_both_sides():
    run = Run()
    schedule = keras.optimizers.schedules.PolynomialDecay(0.5, 10, 0.1)
    theirs = run.there("SGD", learning_rate=schedule, momentum=0.5)
    for _ in range(3):
        run.step(theirs=theirs)
    run.come()
    with pytest.raises(ValueError, match="has a schedule, and lr is a number here"):
        from_keras(instep.Momentum(), theirs, [*SHAPES])
    # That of Keras has the number of steps before a step, and that of instep counts from 1.
    ours = from_keras(instep.Momentum(lr=lambda t: float(schedule(t - 1))), theirs, [*SHAPES])
    for _ in range(3):
        run.step(ours, theirs)
        run.check(1e-6)
    again = run.there("SGD", learning_rate=schedule, momentum=0.5)
    check_variables(to_keras(ours, again, [*SHAPES]), theirs, 1e-6)


# What is refused ------------------------------------------------------------------------------


def there(peer, **keywords):
    run = Run()
    theirs = run.there(peer, **keywords)
    run.step(theirs=theirs)
    return theirs


def excluding():
    theirs = keras.optimizers.AdamW(0.1)
    theirs.exclude_from_weight_decay(var_names=["b"])
    theirs.build([keras.Variable(np.ones(shape), name=name[0]) for name, shape in SHAPES.items()])
    return theirs


REFUSED = [
    (hat(instep.AdamW), excluding, "excludes variables from weight decay"),
    (lambda: instep.NAdam(psi=1.0, lr=np.ones(3)), lambda: there("Nadam"), "lr is an array"),
    (instep.Adam, lambda: there("Adam"), "form='epsilon'.*'epsilon_hat' alone"),
    (hat(instep.Adam), lambda: there("AdamW"), "Adam is Keras' Adam, and this is AdamW"),
    (instep.Momentum, lambda: there("SGD", momentum=0.5, nesterov=True), "nesterov=True"),
    (instep.SGD, lambda: there("SGD", momentum=0.5), "momentum=0.5"),
    (hat(instep.AMSGrad), lambda: there("Adam"), "amsgrad=False"),
    (
        hat(instep.Adam),
        lambda: there("Adam", weight_decay=0.1),
        r"give chain\(Adam\(\), decoupled_weight_decay",
    ),
    (hat(instep.Adam), lambda: there("Adam", clipnorm=1.0), "clipnorm=1.0"),
    (instep.SGD, lambda: there("SGD", use_ema=True), "use_ema=True"),
    (instep.SGD, keras.optimizers.SGD, r"not built.*build\(model"),
    (instep.SGD, lambda: 3, "must be one of keras.optimizers, got 3"),
    (instep.Tiger, lambda: there("SGD"), "no rule that is the same as Tiger"),
    (
        lambda: chain(clip_by_global_norm(1.0), instep.SGD()),
        lambda: there("SGD"),
        "nothing for clip_by_global_norm",
    ),
]


@pytest.mark.parametrize(("make", "theirs", "text"), REFUSED)
def test_what_does_not_fit_is_an_error_that_changes_nothing(make, theirs, text):
    ours, given = make(), theirs()
    before = repr(ours.state_dict())
    with pytest.raises((TypeError, ValueError), match=text):
        from_keras(ours, given, [*SHAPES])
    assert repr(ours.state_dict()) == before
    variables = [np.asarray(v).copy() for v in getattr(given, "variables", ())]
    with pytest.raises((TypeError, ValueError), match="to_keras: "):
        to_keras(ours, given, [*SHAPES])
    for old, new in zip(variables, getattr(given, "variables", ()), strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


def test_names_that_do_not_fit_are_refused():
    ours = instep.Momentum()
    theirs = there("SGD", momentum=0.5)
    with pytest.raises(ValueError, match="names has 2 paths, and Keras' optimizer 3 variables"):
        from_keras(ours, theirs, ["a", "b"])
    with pytest.raises(ValueError, match=r"of shape \(3, 2\), and it has \(4, 5\)"):
        from_keras(ours, theirs, {"a": np.ones((4, 5)), "b": np.ones(7), "d": np.ones(3)})
    from_keras(ours, theirs, [*SHAPES])
    before = [np.asarray(v).copy() for v in theirs.variables]
    with pytest.raises(ValueError, match=r"has shape \(3, 2\), and that of 'a' is \(4, 5\)"):
        to_keras(ours, theirs, ["a", "d/velocity", "b"])
    with pytest.raises(ValueError, match="names has not 'b'"):
        to_keras(ours, theirs, ["a", "d/velocity", "c"])
    for old, new in zip(before, theirs.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


def test_other_hyperparameters_are_not_written_over():
    ours = from_keras(instep.Momentum(), there("SGD", momentum=0.5), [*SHAPES])
    with pytest.raises(ValueError, match=r"make it with momentum=0\.5"):
        to_keras(ours, there("SGD", momentum=0.75), [*SHAPES])
    ours.overrides = {"a": {"lr": 0.5}}
    with pytest.raises(ValueError, match="overrides gives 'a' other hyperparameters"):
        to_keras(ours, there("SGD", momentum=0.5), [*SHAPES])


def test_a_used_optimizer_is_not_left_half():
    theirs = there("SGD", momentum=0.5)
    with pytest.raises(ValueError, match="has taken steps, of which it keeps some; give one that"):
        to_keras(instep.Momentum(momentum=0.5), theirs, [*SHAPES])
