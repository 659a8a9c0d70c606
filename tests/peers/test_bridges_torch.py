"""State goes to torch.optim and comes from there in mid-run, and both go on alike."""

import copy
from dataclasses import dataclass, field

import numpy as np
import pytest

import instep
from instep import chain
from instep.bridges.torch import from_torch, to_torch
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    decoupled_weight_decay,
    maximize,
    weight_decay,
)

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers

SHAPES = {"a": (4, 5), "b/c": (7,), "d": (3, 1), "e": ()}
NAMES = ["d", "a", "e", "b/c"]  # another order than that of trees


@dataclass(frozen=True)
class Peer:
    """What makes an optimizer of instep, and the class of torch with its keywords."""

    make: object
    peer: str
    theirs: dict = field(default_factory=dict)
    shapes: dict = field(default_factory=lambda: SHAPES)
    tolerance: float = 1e-12

    def __str__(self):
        arguments = ", ".join(f"{name}={value}" for name, value in self.theirs.items())
        return f"{self.make().main.name}, {self.peer}({arguments})"


PEERS = [
    Peer(lambda: instep.SGD(lr=0.1), "SGD"),
    Peer(lambda: chain(weight_decay(0.5), instep.SGD(lr=0.1)), "SGD", {"weight_decay": 0.25}),
    Peer(lambda: instep.Momentum(lr=0.1), "SGD", {"lr": 0.03, "momentum": 0.8}),
    Peer(instep.Momentum, "SGD", {"lr": 0.03, "momentum": 0.8, "dampening": 0.25}),
    Peer(
        lambda: chain(weight_decay(), instep.Momentum()),
        "SGD",
        {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.25},
    ),
    Peer(
        lambda: chain(maximize(), weight_decay(), instep.Momentum()),
        "SGD",
        {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.25, "maximize": True},
    ),
    Peer(lambda: instep.Momentum(lr_in_velocity=False), "SGD", {"lr": 0.03, "momentum": 0.7}),
    Peer(
        lambda: instep.Nesterov(lr_in_velocity=False),
        "SGD",
        {"lr": 0.03, "momentum": 0.7, "nesterov": True},
    ),
    Peer(instep.Nesterov, "SGD", {"lr": 0.03, "momentum": 0.8, "nesterov": True}),
    Peer(instep.Adam, "Adam", {"lr": 0.03, "betas": (0.8, 0.9), "eps": 1e-3}),
    Peer(instep.Adam, "Adam", {"lr": 0.03, "betas": (0.8, 0.75), "amsgrad": True}),
    Peer(lambda: chain(weight_decay(), instep.Adam()), "Adam", {"weight_decay": 0.25}),
    Peer(instep.AMSGrad, "Adam", {"lr": 0.03, "betas": (0.8, 0.75), "amsgrad": True}),
    Peer(instep.AdamW, "AdamW", {"lr": 0.03, "weight_decay": 0.25}),
    Peer(instep.AdamW, "AdamW", {"lr": 0.03, "betas": (0.8, 0.75), "amsgrad": True}),
    Peer(instep.NAdam, "NAdam", {"lr": 0.03, "betas": (0.8, 0.75), "momentum_decay": 0.5}),
    Peer(
        lambda: chain(instep.NAdam(), decoupled_weight_decay()),
        "NAdam",
        {"lr": 0.03, "weight_decay": 0.25, "decoupled_weight_decay": True},
    ),
    Peer(lambda: chain(weight_decay(), instep.NAdam()), "NAdam", {"weight_decay": 0.25}),
    Peer(instep.RAdam, "RAdam", {"lr": 0.03, "betas": (0.8, 0.9)}),
    Peer(
        lambda: chain(instep.RAdam(), decoupled_weight_decay()),
        "RAdam",
        {"lr": 0.03, "weight_decay": 0.25, "decoupled_weight_decay": True},
    ),
    Peer(lambda: instep.AdaMax(eps_in_max=True), "Adamax", {"betas": (0.8, 0.9), "eps": 0.01}),
    Peer(instep.AdaGrad, "Adagrad", {"lr": 0.03, "eps": 1e-5, "initial_accumulator_value": 0.1}),
    Peer(instep.AdaDelta, "Adadelta", {"lr": 0.5, "rho": 0.75}),
    Peer(instep.RMSProp, "RMSprop", {"lr": 0.03, "alpha": 0.75}),
    Peer(instep.RMSProp, "RMSprop", {"lr": 0.03, "alpha": 0.75, "momentum": 0.5}),
    Peer(lambda: instep.RMSProp(lr_in_velocity=False), "RMSprop", {"momentum": 0.75}),
    Peer(instep.RMSProp, "RMSprop", {"lr": 0.03, "alpha": 0.75, "centered": True}),
    Peer(
        lambda: chain(weight_decay(), instep.RMSProp()),
        "RMSprop",
        {"lr": 0.03, "centered": True, "momentum": 0.5, "weight_decay": 0.25},
    ),
    Peer(instep.Rprop, "Rprop", {"lr": 0.03, "etas": (0.25, 1.5), "step_sizes": (1e-3, 0.1)}),
    Peer(instep.ASGD, "ASGD", {"lr": 0.03, "lambd": 0.25, "alpha": 0.5, "t0": 4.0}),
    Peer(lambda: chain(weight_decay(), instep.ASGD()), "ASGD", {"weight_decay": 0.25, "t0": 2.0}),
    Peer(
        lambda: instep.Adafactor(eps1_as="bound"),
        "Adafactor",
        {"lr": 0.5, "beta2_decay": -0.5, "d": 1.25, "eps": (0.01, 0.1)},
        SHAPES | {"f": (2, 4, 3)},
    ),
    Peer(
        lambda: chain(instep.Adafactor(eps1_as="bound"), decoupled_weight_decay()),
        "Adafactor",
        {"lr": 0.5, "weight_decay": 0.25},
    ),
    # torch computes products in bfloat16, whose 8 bits five iterations lose some of.
    Peer(
        instep.Muon,
        "Muon",
        {"lr": 0.01, "weight_decay": 0.25, "momentum": 0.8, "adjust_lr_fn": "match_rms_adamw"},
        {"a": (4, 6), "d": (5, 3)},
        tolerance=2e-2,
    ),
]


@pytest.fixture(autouse=True)
def scalars_in_float64():
    """Let torch keep its scalars, such as the product in NAdam, in float64, too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Run:
    """The same parameters, here and there, with the same gradients."""

    def __init__(self, shapes, dtype="float64"):
        self.rng = np.random.default_rng(0)
        names = [*NAMES, *sorted(shapes.keys() - {*NAMES})]
        self.names = [name for name in names if name in shapes]
        self.params = {n: np.asarray(self.draw(shapes[n]), dtype) for n in self.names}
        self.tensors = {n: torch.nn.Parameter(torch.tensor(self.params[n])) for n in self.names}

    def draw(self, shape):
        return self.rng.standard_normal(shape)

    def there(self, peer, **keywords):
        return getattr(torch.optim, peer)(self.tensors.values(), **keywords)

    def step(self, ours=None, theirs=None):
        grads = {n: np.asarray(self.draw(w.shape), w.dtype) for n, w in self.params.items()}
        if ours is not None:
            ours.update(self.params, {n: g.copy() for n, g in grads.items()})
        if theirs is not None:
            for name, g in grads.items():
                self.tensors[name].grad = torch.tensor(g)
            theirs.step()

    def meet(self, *, there):
        """Give the parameters of one side to the other."""
        for name, w in self.params.items():
            if there:
                self.tensors[name].data.copy_(torch.tensor(w))
            else:
                self.params[name] = self.tensors[name].detach().numpy().copy()

    def check(self, tolerance):
        for name, w in self.params.items():
            other = self.tensors[name].detach().numpy()
            np.testing.assert_allclose(w, other, rtol=tolerance, atol=tolerance, err_msg=name)


def check_states(one, other):
    """Compare two state_dicts of torch."""
    assert one["state"].keys() == other["state"].keys()
    for index, fields in one["state"].items():
        assert fields.keys() == other["state"][index].keys()
        for name, x in fields.items():
            y = other["state"][index][name]
            assert x.shape == y.shape, name
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12, err_msg=name)


def cross(entry, dtype, tolerance):
    run = Run(entry.shapes, dtype)
    theirs, ours = run.there(entry.peer, **entry.theirs), entry.make()
    for _ in range(7):
        run.step(theirs=theirs)
    run.meet(there=False)
    given = copy.deepcopy(theirs.state_dict())
    assert from_torch(ours, theirs.state_dict(), run.names) is ours
    check_states(theirs.state_dict(), given)  # it is not changed
    for _ in range(5):
        run.step(ours, theirs)
        run.check(tolerance)
    again = run.there(entry.peer)
    run.meet(there=True)
    again.load_state_dict(to_torch(ours, run.names))
    if dtype == "float64" and entry.tolerance <= 1e-12:
        check_states(again.state_dict(), theirs.state_dict())
    for name, value in theirs.state_dict()["param_groups"][0].items():
        assert name in IGNORED or again.state_dict()["param_groups"][0][name] == value, name
    for _ in range(5):
        run.step(ours, again)
        run.check(tolerance)
    return ours


IGNORED = ("eps",)


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_run_crosses_over_and_back(entry):
    ours = cross(entry, "float64", entry.tolerance)
    remembers = entry.peer == "Muon" or "momentum" in entry.theirs
    assert ours.t == (17 if entry.peer not in ("SGD", "Muon") else 11 if remembers else 10)


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_run_in_float32_crosses_over_and_back(entry):
    torch.set_default_dtype(torch.float32)
    cross(entry, "float32", max(2e-5, entry.tolerance))


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_run_that_began_here_crosses_over(entry):
    run = Run(entry.shapes)
    theirs = run.there(entry.peer, **entry.theirs)
    ours = from_torch(entry.make(), theirs.state_dict(), {n: run.params[n] for n in run.names})
    assert ours.t == 0
    for _ in range(7):
        run.step(ours)
    run.meet(there=True)
    theirs = run.there(entry.peer)
    theirs.load_state_dict(to_torch(ours, run.names))
    for _ in range(5):
        run.step(ours, theirs)
        run.check(entry.tolerance)


def test_state_of_bfloat16_comes_as_float32():
    run = Run({"a": (4, 5)}, "float32")
    tensor = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    theirs = torch.optim.Adam([tensor])
    tensor.grad = torch.full((4,), 2.0, dtype=torch.bfloat16)
    theirs.step()
    ours = from_torch(instep.Adam(), theirs.state_dict(), ["a"])
    m = ours.state_dict()["states"]["a"]["slots"]["m"]
    assert m.dtype == np.float32
    np.testing.assert_allclose(m, 0.2, rtol=1e-2)
    theirs.load_state_dict(to_torch(ours, ["a"]))
    assert theirs.state[tensor]["exp_avg"].dtype == torch.bfloat16
    del run


def test_state_in_fewer_bits_goes_over_as_numbers():
    ours = instep.Adam(state_dtype="bfloat16")
    ours.update({"a": np.ones(5, np.float32)}, {"a": np.ones(5, np.float32)})
    state = to_torch(ours, ["a"])["state"][0]
    np.testing.assert_allclose(state["exp_avg"], 0.1, rtol=1e-2)
    np.testing.assert_allclose(state["exp_avg_sq"], 0.001, rtol=1e-2)


def test_options_that_are_tensors_are_numbers():
    run = Run({"a": (3,)})
    theirs = run.there("Adam", lr=torch.tensor(0.25), foreach=False)
    run.step(theirs=theirs)
    assert from_torch(instep.Adam(), theirs.state_dict(), ["a"]).lr == 0.25


def test_options_of_schedulers_and_a_changed_rate_are_understood():
    run = Run({"a": (3,)})
    theirs = run.there("SGD", momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.5, total_steps=10)
    for _ in range(3):
        run.step(theirs=theirs)
        scheduler.step()
    run.meet(there=False)
    ours = from_torch(instep.Momentum(), theirs.state_dict(), ["a"], t=3)
    run.step(ours, theirs)
    run.check(1e-12)
    assert ours.t == 4


def test_parameters_that_missed_steps_keep_their_counts():
    run = Run(SHAPES)
    theirs = run.there("Adam")
    for t in range(4):
        run.step(theirs=theirs)
        run.tensors["a"].grad = None
        if t == 2:
            theirs.step()
    ours = from_torch(instep.Adam(), theirs.state_dict(), run.names)
    assert ours.t == 5
    assert {key: leaf["missed"] for key, leaf in ours.state_dict()["states"].items()} == {
        **dict.fromkeys(SHAPES, 0),
        "a": 1,
    }
    check_states(to_torch(ours, run.names), theirs.state_dict())


# Groups ---------------------------------------------------------------------------------------


def grouped(run):
    tensors = run.tensors
    return torch.optim.AdamW(
        [
            {"params": [tensors["a"], tensors["d"]]},
            {"params": [tensors["b/c"], tensors["e"]], "weight_decay": 0.0, "lr": 0.5},
        ],
        weight_decay=0.25,
    )


def test_groups_become_overrides_and_groups_again():
    run = Run(SHAPES)
    theirs, names = grouped(run), [["a", "d"], ["b/c", "e"]]
    for _ in range(3):
        run.step(theirs=theirs)
    run.meet(there=False)
    ours = from_torch(instep.AdamW(), theirs.state_dict(), names)
    other = {"lr": 0.5, "weight_decay": 0.0}
    assert ours.overrides == {"b/c": other, "e": other}
    assert (ours.lr, ours.weight_decay) == (0.001, 0.25)
    for _ in range(3):
        run.step(ours, theirs)
        run.check(1e-12)
    again = grouped(run)
    again.load_state_dict(to_torch(ours, names))
    check_states(again.state_dict(), theirs.state_dict())
    assert again.param_groups[1]["lr"] == 0.5
    with pytest.raises(ValueError, match=r"to_torch: 'a' has lr=0\.001 and 'b/c' lr=0\.5.*lists"):
        to_torch(ours, ["a", "d", "b/c", "e"])


def test_a_group_without_weight_decay_stays_one_in_a_chain():
    run = Run({"a": (3,), "e": ()})
    theirs = torch.optim.SGD(
        [
            {"params": [run.tensors["a"]], "weight_decay": 0.5},
            {"params": [run.tensors["e"]], "weight_decay": 0.0},
        ],
        lr=0.1,
        momentum=0.9,
    )
    for _ in range(3):
        run.step(theirs=theirs)
    run.meet(there=False)
    make = lambda: chain(weight_decay(), instep.Momentum())  # noqa: E731
    ours = from_torch(make(), theirs.state_dict(), [["a"], ["e"]])
    assert ours.overrides == {"e": {"weight_decay_rate": 0.0}}
    for _ in range(3):
        run.step(ours, theirs)
        run.check(1e-12)
    groups = to_torch(ours, [["a"], ["e"]])["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [group["params"] for group in groups] == [[0], [1]]


def test_names_of_parameters_come_with_the_state_or_from_the_parameters():
    module = torch.nn.Linear(3, 2)
    theirs = torch.optim.Adam(module.named_parameters())
    module(torch.ones(3)).sum().backward()
    theirs.step()
    for names in (None, dict(module.named_parameters()), ["weight", "bias"]):
        ours = from_torch(instep.Adam(), theirs.state_dict(), names)
        shapes = {k: x["slots"]["m"].shape for k, x in ours.state_dict()["states"].items()}
        assert shapes == {"weight": (2, 3), "bias": (2,)}
    theirs.load_state_dict(to_torch(ours, dict(module.named_parameters())))


def test_patterns_in_names_are_meant_as_they_are():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    theirs = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    ours = from_torch(instep.SGD(), theirs.state_dict(), [["x"], ["[x]"]])
    w = ours.update({"x": np.zeros(2), "[x]": np.zeros(2)}, {"x": np.ones(2), "[x]": np.ones(2)})
    assert (w["x"][0], w["[x]"][0]) == (-0.1, -0.5)


# Schedules ------------------------------------------------------------------------------------


def test_schedules_stay_and_go_over_as_the_number_of_the_next_step():
    run = Run(SHAPES)
    schedule = instep.schedules.Linear(0.5, 0.1, steps=10)
    ours = instep.Momentum(lr=schedule)
    for _ in range(3):
        run.step(ours)
    state = to_torch(ours, run.names)
    assert state["param_groups"][0]["lr"] == schedule(4)
    theirs = run.there("SGD", momentum=0.5)
    theirs.load_state_dict(state)
    run.meet(there=True)
    run.step(ours, theirs)
    run.check(1e-12)
    resumed = from_torch(instep.Momentum(lr=schedule), theirs.state_dict(), run.names, t=4)
    assert resumed.lr == schedule
    assert resumed.t == 4


# What is refused ------------------------------------------------------------------------------


def stepped(peer, **keywords):
    run = Run(SHAPES)
    theirs = run.there(peer, **keywords)
    run.step(theirs=theirs)
    return theirs.state_dict()


REFUSED = [
    (instep.Adam, lambda: stepped("Adamax"), "has 'exp_inf'|has no option|no 'exp_avg_sq'"),
    (instep.Adam, lambda: stepped("SGD", momentum=0.9), "has no option 'betas'.*that it is of"),
    (instep.Adam, lambda: stepped("AdamW"), "decoupled_weight_decay=True"),
    (instep.AdamW, lambda: stepped("Adam"), "decoupled_weight_decay=False"),
    (instep.RAdam, lambda: stepped("NAdam"), "mu_product|momentum_decay"),
    (instep.Momentum, lambda: stepped("SGD", momentum=0.9, nesterov=True), "nesterov=True"),
    (instep.SGD, lambda: stepped("SGD", momentum=0.9), "momentum=0.9"),
    (instep.Adam, lambda: stepped("Adam", weight_decay=0.1), r"chain\(weight_decay\(\), Adam"),
    (
        instep.NAdam,
        lambda: stepped("NAdam", weight_decay=0.1, decoupled_weight_decay=True),
        r"chain\(NAdam\(\), decoupled_weight_decay",
    ),
    (instep.Adam, lambda: stepped("Adam", maximize=True), r"maximize=True; give chain\(maximize"),
    (instep.AdaGrad, lambda: stepped("Adagrad", lr_decay=0.1), "lr_decay=0.1"),
    (instep.AdaMax, lambda: stepped("Adamax"), "eps_in_max=False.*make the optimizer with that"),
    (instep.Adafactor, lambda: stepped("Adafactor"), "eps1_as='term'.*'bound'"),
    (instep.AMSGrad, lambda: stepped("Adam"), "amsgrad=False"),
    (instep.Adam, lambda: {"w": 1}, "must have 'state' and 'param_groups'"),
    (instep.Lion, lambda: stepped("Adam"), "no rule that is the same as Lion; the bridge has SGD"),
    (
        lambda: instep.Adam(lr=np.ones(3)),
        lambda: stepped("Adam"),
        "lr is an array|has a number there",
    ),
    (lambda: chain(instep.Adam(), average(0.9)), lambda: stepped("Adam"), "nothing for average"),
    (lambda: chain(accumulate(2), instep.Adam()), lambda: stepped("Adam"), "nothing for accumul"),
]


@pytest.mark.parametrize(("make", "state", "text"), REFUSED)
def test_what_does_not_fit_is_an_error_that_changes_nothing(make, state, text):
    ours, given = make(), state()
    before = ours.state_dict()
    with pytest.raises((TypeError, ValueError), match=text):
        from_torch(ours, given, NAMES)
    assert ours.t == 0
    assert repr(ours.state_dict()) == repr(before)


def damaged(change):
    state = copy.deepcopy(stepped("Adam"))
    change(state)
    return state


DAMAGES = {
    "a field is missing": (lambda s: s["state"][0].pop("exp_avg"), "'d' has no 'exp_avg'"),
    "a field is too much": (
        lambda s: s["state"][0].update(max_exp_avg_sq=torch.ones(3, 1)),
        "'d' has 'max_exp_avg_sq'",
    ),
    "a shape is wrong": (
        lambda s: s["state"][1].update(exp_avg_sq=torch.ones(3)),
        r"'a' makes 'v' of shape \(3,\), expected \(4, 5\)",
    ),
    "no steps": (lambda s: s["state"][1].pop("step"), "'a' has no 'step'"),
    "an option is missing": (lambda s: s["param_groups"][0].pop("lr"), "no option 'lr'"),
    "an option is unknown": (
        lambda s: s["param_groups"][0].update(warm=1),
        "the option warm=1, which torch's Adam is not known to have",
    ),
    "an option is wrong": (lambda s: s["param_groups"][0].update(lr=-1.0), "lr must be"),
    "a parameter of no group": (lambda s: s["state"].update({9: {}}), "parameter 9"),
    "no groups": (lambda s: s["param_groups"].clear(), "no groups|0 parameters"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_refused(damage):
    change, text = DAMAGES[damage]
    ours = instep.Adam(lr=0.5)
    with pytest.raises((TypeError, ValueError), match=text):
        from_torch(ours, damaged(change), NAMES)
    assert (ours.t, ours.lr) == (0, 0.5)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (None, "has no names of parameters; give names"),
        ("a", "names must be the paths"),
        (3, "names must be the paths"),
        (["a", "d"], "names has 2 paths, and the state 4"),
        (["a", "a", "d", "e"], "names has 'a' twice"),
        ([["a", "d"], ["e", "b/c"]], "groups of 2, 2, and the state of 4"),
        ([["a", 3, "e", "d"]], "got 3 among them"),
        ({n: np.zeros((2, 2)) for n in NAMES}, r"of shape \(3, 1\), and it has \(2, 2\)"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, text):
    with pytest.raises((TypeError, ValueError), match=text):
        from_torch(instep.Adam(), stepped("Adam"), names)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: instep.NAdam(amsgrad=True), "amsgrad=True"),
        (lambda: instep.RMSProp(nesterov=True), "nesterov=True"),
        (instep.AdaMax, "eps_in_max=False"),
        (lambda: instep.Adam(form="epsilon_hat"), "form='epsilon_hat'"),
        (instep.Tiger, "no rule that is the same as Tiger"),
        (instep.Adam, "lr is an array"),
        (lambda: instep.Adam(beta1=lambda t: 0.9), "beta1 is a schedule"),
        (lambda: instep.Momentum(lr=0.0), "lr is 0"),
        (lambda: chain(weight_decay(), clip_by_global_norm(1.0), instep.Adam()), "clip_by_global"),
        (lambda: chain(instep.Adam(), decoupled_weight_decay()), "decoupled_weight_decay"),
        (lambda: chain(instep.RAdam(), decoupled_weight_decay(corrected=True)), "corrected"),
        (lambda: chain(maximize(), instep.Muon()), "Muon does not maximize"),
        (
            lambda: instep.partition({"b": instep.SGD(), "*": instep.Adam()}),
            "has several optimizers",
        ),
        (lambda: instep.Adam(overrides={lambda path, x: True: {"lr": 0.1}}), "asked of parameters"),
    ],
)
def test_what_torch_does_not_have_is_not_written(make, text):
    ours = make()
    params, grads = ({name: np.ones((3, 3)) for name in ("a", "b")} for _ in range(2))
    if "lr is an array" in text:
        ours.lr = np.ones((3, 3))
    ours.update(params, grads)
    with pytest.raises((TypeError, ValueError), match=text):
        to_torch(ours, ["a", "b"])


def test_a_parameter_of_no_name_is_not_left_behind():
    ours = instep.Adam()
    ours.update({"a": np.ones(3), "b": np.ones(3)}, {"a": np.ones(3), "b": np.ones(3)})
    with pytest.raises(ValueError, match="names has not 'b'"):
        to_torch(ours, ["a"])
    assert [*to_torch(ours, ["c", "b", "a"])["state"]] == [1, 2]


def test_a_rate_that_was_another_does_not_go_over():
    ours = instep.Adam()
    ours.update({"a": np.ones(3)}, {"a": np.ones(3)})
    ours.beta1 = 0.5
    ours.update({"a": np.ones(3)}, {"a": np.ones(3)})
    with pytest.raises(ValueError, match="beta1 was another before"):
        to_torch(ours, ["a"])


def test_clipping_before_is_left_to_the_loop():
    ours = chain(clip_by_global_norm(1.0), weight_decay(0.5), instep.Adam())
    ours.update({"a": np.ones(3)}, {"a": np.ones(3)})
    assert to_torch(ours, ["a"])["param_groups"][0]["weight_decay"] == 0.5


# Complex numbers ------------------------------------------------------------------------------


def complex_run(peer, **keywords):
    """Return parameters and an optimizer of torch that took three steps."""
    rng = np.random.default_rng(0)
    draw = lambda: rng.standard_normal(5) + 1j * rng.standard_normal(5)  # noqa: E731
    tensor = torch.nn.Parameter(torch.tensor(draw()))
    theirs = getattr(torch.optim, peer)([tensor], lr=0.1, **keywords)
    for _ in range(3):
        tensor.grad = torch.tensor(draw())
        theirs.step()
    return draw, tensor, theirs


@pytest.mark.parametrize(
    ("make", "peer", "keywords"),
    [
        (lambda: instep.Momentum(complex="pairs"), "SGD", {"momentum": 0.9}),
        (instep.Momentum, "SGD", {"momentum": 0.9}),
        (lambda: instep.Adam(complex="pairs"), "Adam", {"amsgrad": True}),
        (lambda: instep.RMSProp(complex="pairs"), "RMSprop", {"centered": True}),
        (lambda: instep.Rprop(complex="pairs"), "Rprop", {}),
    ],
    ids=["Momentum of pairs", "Momentum", "Adam", "RMSProp", "Rprop"],
)
def test_complex_numbers_cross_over_and_back(make, peer, keywords):
    draw, tensor, theirs = complex_run(peer, **keywords)
    params = {"w": tensor.detach().numpy().copy()}
    ours = from_torch(make(), theirs.state_dict(), params)
    for again in (False, True):
        if again:
            theirs.load_state_dict(to_torch(ours, params))
        for _ in range(3):
            g = draw()
            tensor.grad = torch.tensor(g)
            ours.update(params, {"w": g})
            theirs.step()
            np.testing.assert_allclose(params["w"], tensor.detach().numpy(), rtol=1e-12)


def test_moduli_do_not_stand_for_parts():
    _, tensor, theirs = complex_run("Adam")
    ours = instep.Adam()
    with pytest.raises(ValueError, match="make the optimizer with complex='pairs'"):
        from_torch(ours, theirs.state_dict(), ["w"])
    params = {"w": tensor.detach().numpy().copy()}
    ours.update(params, {"w": params["w"].copy()})
    with pytest.raises(ValueError, match="make the optimizer with complex='pairs'"):
        to_torch(ours, ["w"])
    pairs = from_torch(instep.Adam(complex="pairs"), theirs.state_dict(), ["w"])
    with pytest.raises(ValueError, match="give names as a dict of them to the parameters"):
        to_torch(pairs, ["w"])


# What is lost without a word ---------------------------------------------------------------------


def with_rates(peer, lrs, **options):
    """Return an optimizer of torch that took a step with each of these rates, and its parameter."""
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    theirs = getattr(torch.optim, peer)([w], lr=lrs[0], **options)
    for i, lr in enumerate(lrs):
        theirs.param_groups[0]["lr"] = lr
        w.grad = torch.tensor([0.3, -0.2], dtype=torch.float64) * (i + 1)
        theirs.step()
    return theirs, w


@pytest.mark.parametrize(
    ("make", "peer"),
    [
        (instep.Momentum, "SGD"),
        (lambda **own: instep.RMSProp(momentum=0.9, **own), "RMSprop"),
    ],
    ids=["Momentum", "RMSProp"],
)
def test_a_velocity_does_not_come_at_a_rate_of_0(make, peer):
    theirs, w = with_rates(peer, [0.1] * 3, momentum=0.9)
    theirs.param_groups[0]["lr"] = 0.0
    ours = make()
    with pytest.raises(ValueError, match=r"lr of the next step is 0.*lr_in_velocity=False"):
        from_torch(ours, theirs.state_dict(), ["w"])
    assert ours.t == 0
    other, params = make(lr_in_velocity=False), {"w": w.detach().numpy().copy()}
    from_torch(other, theirs.state_dict(), ["w"])
    theirs.param_groups[0]["lr"] = other.lr = 0.1
    w.grad = torch.full((2,), 0.1, dtype=torch.float64)
    theirs.step()
    other.update(params, {"w": np.full(2, 0.1)})
    np.testing.assert_allclose(params["w"], w.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [instep.Momentum, lambda: instep.Adam(complex="pairs")])
def test_complex_numbers_without_dimensions_go_over(make):
    ours, params = make(), {"w": np.array(1 + 1j)}
    params = ours.update(params, {"w": np.array(0.3 + 0.4j)})
    (state,) = to_torch(ours, params)["state"].values()
    found = [x for name, x in state.items() if name in ("momentum_buffer", "exp_avg")]
    assert all(x.is_complex() and x.shape == () for x in found)
    parameter = torch.nn.Parameter(torch.tensor(complex(params["w"]), dtype=torch.complex128))
    peer = torch.optim.SGD if "momentum_buffer" in state else torch.optim.Adam
    theirs = peer([parameter], **({"momentum": 0.9} if peer is torch.optim.SGD else {}))
    theirs.load_state_dict(to_torch(ours, params))
    parameter.grad = torch.tensor(0.1 - 0.2j, dtype=torch.complex128)
    theirs.step()
    params = ours.update(params, {"w": np.array(0.1 - 0.2j)})
    assert complex(parameter.detach()) == pytest.approx(complex(params["w"]), abs=1e-12)


def test_a_rate_that_torch_does_not_follow_yet_is_refused():
    theirs, _ = with_rates("ASGD", [0.1, 0.1])
    theirs.param_groups[0]["lr"] = 0.01
    with pytest.raises(ValueError, match=r"'eta' of 'w' is 0\.0999.*torch's ASGD follows"):
        from_torch(instep.ASGD(), theirs.state_dict(), ["w"])
    theirs.param_groups[0]["lr"] = 0.1
    assert from_torch(instep.ASGD(), theirs.state_dict(), ["w"]).t == 2


@pytest.mark.parametrize(("step", "taken"), [([3.0], 3), (3, 3), (2.5, None), ([1.0, 2.0], None)])
def test_a_number_of_steps_is_one_whole_number(step, taken):
    theirs, _ = with_rates("Adam", [0.1])
    state = theirs.state_dict()
    state["state"][0]["step"] = torch.tensor(step)
    if taken is None:
        with pytest.raises(ValueError, match="'step' of 'w' must be a number of steps"):
            from_torch(instep.Adam(), state, ["w"])
    else:
        assert from_torch(instep.Adam(), state, ["w"]).t == taken


def test_names_are_no_nested_tree():
    theirs, w = with_rates("Adam", [0.1])
    with pytest.raises(TypeError, match="'layer', which is no array; give paths"):
        from_torch(instep.Adam(), theirs.state_dict(), {"layer": {"w": w.detach().numpy()}})


def test_a_scheduler_that_keeps_numbers_in_groups_goes_on_with_them():
    module = torch.nn.Linear(2, 1)
    theirs = torch.optim.AdamW(module.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.1, total_steps=20)
    names = [name for name, _ in module.named_parameters()]
    module(torch.ones(2)).sum().backward()
    theirs.step()
    scheduler.step()
    state = to_torch(from_torch(instep.AdamW(), theirs.state_dict(), names), names)
    for new, old in zip(state["param_groups"], theirs.param_groups, strict=True):
        new |= {name: x for name, x in old.items() if name not in new}
    theirs.load_state_dict(state)
    theirs.step()
    scheduler.step()
