"""Rules against torch.optim, with the variant set equal: 30 steps in float64, to 1e-12."""

from dataclasses import dataclass, field

import numpy as np
import pytest

import instep

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers

STEPS = 30


@dataclass(frozen=True)
class Peer:
    """A rule of instep and its keywords, beside torch's class and its keywords."""

    rule: str
    peer: str
    ours: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)
    fused: bool = False

    def __str__(self):
        arguments = ", ".join(f"{name}={value}" for name, value in self.ours.items())
        return f"{self.rule}({arguments})"


PEERS = [
    Peer("SGD", "SGD", {"lr": 0.1}, {"lr": 0.1}, fused=True),
    # The velocities differ by the factor lr: equal while lr is constant.
    Peer("Momentum", "SGD", {"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}, fused=True),
    Peer(
        "Nesterov", "SGD", {"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, fused=True
    ),
    Peer(
        "Momentum",
        "SGD",
        {"lr": 0.1, "lr_in_velocity": False, "dampening": 0.25},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.25},
        fused=True,
    ),
    Peer(
        "Nesterov",
        "SGD",
        {"lr": 0.1, "lr_in_velocity": False},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        fused=True,
    ),
    Peer("AdaGrad", "Adagrad", {"lr": 0.1}, {"lr": 0.1, "eps": 1e-7}, fused=True),
    Peer(
        "AdaGrad",
        "Adagrad",
        {"lr": 0.1, "initial_accumulator_value": 0.25},
        {"lr": 0.1, "eps": 1e-7, "initial_accumulator_value": 0.25},
        fused=True,
    ),
    Peer("RMSProp", "RMSprop", {"lr": 0.1}, {"lr": 0.1, "alpha": 0.9, "eps": 1e-7}),
    Peer(
        "RMSProp",
        "RMSprop",
        {"lr": 0.1, "centered": True},
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-7, "centered": True},
    ),
    Peer(
        "RMSProp",
        "RMSprop",
        {"lr": 0.1, "centered": True, "momentum": 0.5, "decay": 0.99},
        {"lr": 0.1, "alpha": 0.99, "eps": 1e-7, "centered": True, "momentum": 0.5},
    ),
    Peer(
        "RMSProp",
        "RMSprop",
        {"lr": 0.1, "momentum": 0.5, "lr_in_velocity": False},
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-7, "momentum": 0.5},
    ),
    Peer("Adam", "Adam", {}, {}, fused=True),
    Peer(
        "Adam",
        "Adam",
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.75, "eps": 1e-3},
        {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1e-3},
        fused=True,
    ),
    Peer("AdamW", "AdamW", {}, {}, fused=True),
    Peer(
        "AdamW",
        "AdamW",
        {"weight_decay": 0.5, "lr": 0.1},
        {"weight_decay": 0.5, "lr": 0.1},
        fused=True,
    ),
    Peer(
        "Adam",
        "Adam",
        {"lr": 0.1, "beta2": 0.75, "amsgrad": True},
        {"lr": 0.1, "betas": (0.9, 0.75), "amsgrad": True},
        fused=True,
    ),
    Peer(
        "AdamW",
        "AdamW",
        {"lr": 0.1, "beta2": 0.75, "amsgrad": True},
        {"lr": 0.1, "betas": (0.9, 0.75), "amsgrad": True},
        fused=True,
    ),
    Peer("AdaDelta", "Adadelta", {}, {"rho": 0.95}),
    Peer("AMSGrad", "Adam", {"beta2": 0.75}, {"betas": (0.9, 0.75), "amsgrad": True}, fused=True),
    Peer("NAdam", "NAdam", {}, {}),
    Peer(
        "NAdam",
        "NAdam",
        {"lr": 0.1, "beta1": 0.5, "psi": 1.0},
        {"lr": 0.1, "betas": (0.5, 0.999), "momentum_decay": 1.0},
    ),
    Peer("RAdam", "RAdam", {}, {}),
    Peer("RAdam", "RAdam", {"lr": 0.1, "beta2": 0.9}, {"lr": 0.1, "betas": (0.9, 0.9)}),
    Peer("AdaMax", "Adamax", {"eps": 0.0}, {"eps": 0.0}),
    Peer("AdaMax", "Adamax", {"eps": 0.5, "eps_in_max": True}, {"eps": 0.5}),
    Peer("Rprop", "Rprop", {}, {}),
    Peer(
        "Rprop",
        "Rprop",
        {"lr": 0.1, "shrink": 0.25, "grow": 1.5, "largest": 0.2},
        {"lr": 0.1, "etas": (0.25, 1.5), "step_sizes": (1e-6, 0.2)},
    ),
    Peer("ASGD", "ASGD", {}, {}),
    Peer(
        "ASGD",
        "ASGD",
        {"lr": 0.1, "weight_decay": 0.25, "alpha": 0.5, "t0": 5.0},
        {"lr": 0.1, "lambd": 0.25, "alpha": 0.5, "t0": 5.0},
    ),
    Peer("Adafactor", "Adafactor", {"eps1": 2.0**-52, "eps1_as": "bound"}, {}),
    Peer("Adafactor", "Adafactor", {"eps1": 0.7, "eps1_as": "bound"}, {"eps": (0.7, 1e-3)}),
    # torch adds no eps to squares, and bounds the mean by it: nothing that shows at 1e-30.
    Peer("Adafactor", "Adafactor", {}, {"eps": (1e-30, 1e-3)}),
    Peer(
        "Adafactor",
        "Adafactor",
        {"lr": 0.5, "decay": 0.5, "d": 1.25, "eps2": 0.1},
        {"lr": 0.5, "beta2_decay": -0.5, "d": 1.25, "eps": (1e-30, 0.1)},
    ),
]


@pytest.fixture(autouse=True)
def scalars_in_float64():
    """Let torch keep its scalars, such as the product in NAdam, in float64, too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


WAYS = {"for loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def complex_numbers(rng, shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def compare(entry, keywords, missing=(), draw=np.random.Generator.standard_normal):
    """Run both; torch is given no gradient at the steps in `missing`."""
    rng = np.random.default_rng(0)
    params = {"a": draw(rng, (4, 5)), "b": draw(rng, 7)}
    tensors = {name: torch.nn.Parameter(torch.asarray(w.copy())) for name, w in params.items()}
    ours = getattr(instep, entry.rule)(**entry.ours, complex="pairs")
    theirs = getattr(torch.optim, entry.peer)(tensors.values(), **entry.theirs, **keywords)
    for t in range(1, STEPS + 1):
        grads = {name: draw(rng, w.shape) for name, w in params.items()}
        if t in missing:
            grads["b"] = None
        for name, g in grads.items():
            tensors[name].grad = None if g is None else torch.asarray(g.copy())
        ours.update(params, grads)
        theirs.step()
        for name, w in params.items():
            np.testing.assert_allclose(
                w, tensors[name].detach().numpy(), rtol=1e-12, atol=1e-12, err_msg=f"step {t}"
            )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_rule_agrees_with_torch(entry, way):
    if way == "fused" and not entry.fused:
        pytest.skip(f"torch has no fused {entry.peer}")
    compare(entry, WAYS[way])


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_missing_gradient_is_taken_as_torch_takes_it(entry):
    compare(entry, {"foreach": False}, missing=(3,))
    compare(entry, {"foreach": False}, missing=(1, 2, 7))


@pytest.mark.parametrize("way", ["for loop", "foreach"])
@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_pairs_agree_with_torch_on_complex_numbers(entry, way):
    if entry.rule == "Adafactor":
        pytest.skip("torch has no Adafactor of complex numbers")
    compare(entry, WAYS[way], draw=complex_numbers)


@pytest.mark.parametrize(
    "entry",
    [
        Peer("Adam", "Adam"),
        Peer("AdamW", "AdamW"),
        Peer("SGD", "SGD"),
        Peer("AdaGrad", "Adagrad", {}, {"eps": 1e-7}),
        Peer("Momentum", "SGD", {"lr_in_velocity": False}, {"momentum": 0.9}),
        Peer("Nesterov", "SGD", {"lr_in_velocity": False}, {"momentum": 0.9, "nesterov": True}),
        Peer(
            "RMSProp",
            "RMSprop",
            {"lr_in_velocity": False, "momentum": 0.5, "centered": True},
            {"alpha": 0.9, "eps": 1e-7, "momentum": 0.5, "centered": True},
        ),
    ],
    ids=str,
)
def test_a_changing_learning_rate_agrees_with_torch(entry):
    """Rules whose velocity does not contain the rate agree at any schedule."""
    w = np.random.default_rng(0).standard_normal(9)
    tensor = torch.nn.Parameter(torch.asarray(w.copy()))
    ours = getattr(instep, entry.rule)(lr=lambda t: 0.1 / t, **entry.ours)
    theirs = getattr(torch.optim, entry.peer)([tensor], lr=0.1, **entry.theirs)
    for t in range(1, STEPS + 1):
        g = np.random.default_rng(t).standard_normal(9)
        theirs.param_groups[0]["lr"] = 0.1 / t
        tensor.grad = torch.asarray(g.copy())
        theirs.step()
        ours.update(w, g)
    np.testing.assert_allclose(w, tensor.detach().numpy(), rtol=1e-12)


def test_the_decay_of_adagrad_in_torch_is_a_schedule():
    w = np.random.default_rng(0).standard_normal(9)
    tensor = torch.nn.Parameter(torch.asarray(w.copy()))
    ours = instep.AdaGrad(lr=lambda t: 0.1 / (1 + (t - 1) * 0.25), eps=1e-10)
    theirs = torch.optim.Adagrad([tensor], lr=0.1, lr_decay=0.25)
    for t in range(1, STEPS + 1):
        g = np.random.default_rng(t).standard_normal(9)
        tensor.grad = torch.asarray(g.copy())
        theirs.step()
        ours.update(w, g)
        np.testing.assert_allclose(w, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_dampening_agrees_with_torch():
    """The velocity contains the rate."""
    w = np.random.default_rng(0).standard_normal(9)
    tensor = torch.nn.Parameter(torch.asarray(w.copy()))
    ours = instep.Momentum(lr=0.1, dampening=0.25)
    theirs = torch.optim.SGD([tensor], lr=0.1, momentum=0.9, dampening=0.25)
    for t in range(1, STEPS + 1):
        g = np.random.default_rng(t).standard_normal(9)
        tensor.grad = torch.asarray(g.copy())
        theirs.step()
        ours.update(w, g)
        np.testing.assert_allclose(w, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_the_mean_of_asgd_agrees_with_torch():
    rng = np.random.default_rng(0)
    w = rng.standard_normal(9)
    tensor = torch.nn.Parameter(torch.asarray(w.copy()))
    ours, theirs = instep.ASGD(lr=0.1, t0=3), torch.optim.ASGD([tensor], lr=0.1, t0=3)
    for _ in range(STEPS):
        g = rng.standard_normal(9)
        tensor.grad = torch.asarray(g.copy())
        ours.update(w, g)
        theirs.step()
        mean = theirs.state[tensor]["ax"].numpy()
        np.testing.assert_allclose(ours.answer(w), mean, rtol=1e-12, atol=1e-12)
    assert not np.allclose(w, mean)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"nesterov": False, "weight_decay": 0.5}, {"nesterov": False, "weight_decay": 0.5}),
        ({"adjust_lr": "match_rms_adamw"}, {"adjust_lr_fn": "match_rms_adamw"}),
        (
            {"ns_steps": 3, "ns_a": 2.0, "ns_b": -1.5, "ns_c": 0.5},
            {"ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5)},
        ),
    ],
    ids=str,
)
def test_muon_agrees_with_torch_to_the_precision_of_its_products(ours, theirs):
    """torch computes them in bfloat16, whose 8 bits five iterations lose some of."""
    rng = np.random.default_rng(0)
    for shape in [(4, 6), (6, 4)]:
        w = np.zeros(shape)
        tensor = torch.nn.Parameter(torch.asarray(w.copy()))
        mine = instep.Muon(lr=0.1, **ours)
        other = torch.optim.Muon([tensor], **{"lr": 0.1, "weight_decay": 0.0} | theirs)
        for _ in range(3):
            g = rng.standard_normal(shape)
            tensor.grad = torch.asarray(g.copy())
            mine.update(w, g)
            other.step()
        np.testing.assert_allclose(w, tensor.detach().numpy(), atol=0.03 * 0.3)
