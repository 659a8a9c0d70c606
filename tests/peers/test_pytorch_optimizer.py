"""Rules against pytorch_optimizer, with the variant set equal: 30 steps in float64, to 1e-12."""

from dataclasses import dataclass, field

import numpy as np
import pytest

import instep

torch = pytest.importorskip("torch")
pytorch_optimizer = pytest.importorskip("pytorch_optimizer")

pytestmark = pytest.mark.peers

STEPS = 30


@dataclass(frozen=True)
class Peer:
    """A rule of instep and its keywords, beside the class of that name and its keywords."""

    rule: str
    ours: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)

    def __str__(self):
        arguments = ", ".join(f"{name}={value}" for name, value in self.ours.items())
        return f"{self.rule}({arguments})"


PEERS = [
    # It corrects the bias of what eps was added to, so without one; of MARS, too.
    Peer("LaProp", {"lr": 0.1, "eps": 0.0}, {"lr": 0.1, "eps": 0.0}),
    Peer(
        "LaProp",
        {"lr": 0.1, "beta1": 0.95, "beta2": 0.5, "eps": 0.0},
        {"lr": 0.1, "betas": (0.95, 0.5), "eps": 0.0},
    ),
    Peer("Tiger"),
    Peer(
        "Tiger",
        {"lr": 0.1, "beta": 0.5, "weight_decay": 0.25},
        {"lr": 0.1, "beta": 0.5, "weight_decay": 0.25},
    ),
    Peer("AdaBound"),
    Peer(
        "AdaBound",
        {"lr": 0.1, "final": 0.5, "gamma": 0.1},
        {"lr": 0.1, "final_lr": 0.5, "gamma": 0.1},
    ),
    Peer("StableAdamW"),
    Peer(
        "StableAdamW",
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.999, "weight_decay": 0.25},
        {"lr": 0.1, "betas": (0.5, 0.999), "weight_decay": 0.25},
    ),
    Peer("MARS", {"eps": 0.0}, {"eps": 0.0, "optimize_1d": True}),
    Peer(
        "MARS",
        {"lr": 0.1, "gamma": 0.5, "weight_decay": 0.25, "eps": 0.0},
        {"lr": 0.1, "gamma": 0.5, "weight_decay": 0.25, "eps": 0.0, "optimize_1d": True},
    ),
]


@pytest.fixture(autouse=True)
def the_same_arithmetic(monkeypatch):
    """Let it keep scalars in float64, and add nothing under the roots of mean squares."""
    torch.set_default_dtype(torch.float64)
    root = pytorch_optimizer.LaProp.apply_ams_bound  # of their base class
    monkeypatch.setattr(root, "__defaults__", (0.0,))
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_rule_agrees_with_pytorch_optimizer(entry):
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((4, 5)), "b": rng.standard_normal(7)}
    tensors = {name: torch.nn.Parameter(torch.asarray(w.copy())) for name, w in params.items()}
    ours = getattr(instep, entry.rule)(**entry.ours)
    peer = getattr(pytorch_optimizer, entry.rule)
    theirs = peer(list(tensors.values()), **entry.theirs, foreach=False)
    for t in range(1, STEPS + 1):
        grads = {name: rng.standard_normal(w.shape) for name, w in params.items()}
        for name, g in grads.items():
            tensors[name].grad = torch.asarray(g.copy())
        if entry.rule == "MARS" and t == 1:
            begin(theirs)
        ours.update(params, grads)
        theirs.step()
        for name, w in params.items():
            np.testing.assert_allclose(
                w, tensors[name].detach().numpy(), rtol=1e-12, atol=1e-12, err_msg=f"step {t}"
            )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        (
            {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "every": 3},
            {"lr": 0.1, "betas": (0.5, 0.9), "precondition_frequency": 3},
        ),
    ],
    ids=str,
)
def test_soap_agrees_with_pytorch_optimizer(ours, theirs):
    """On matrices whose bases their gradients determine. It decays weights after a step."""
    rng = np.random.default_rng(0)
    params = {str(shape): rng.standard_normal(shape) for shape in [(4, 5), (5, 4), (5, 5)]}
    tensors = {name: torch.nn.Parameter(torch.asarray(w.copy())) for name, w in params.items()}
    ours = instep.SOAP(eps=0.0, **ours)
    theirs = pytorch_optimizer.SOAP(list(tensors.values()), eps=0.0, weight_decay=0.0, **theirs)
    for t in range(1, STEPS + 1):
        grads = {name: rng.standard_normal(w.shape) for name, w in params.items()}
        for name, g in grads.items():
            tensors[name].grad = torch.asarray(g.copy())
        ours.update(params, grads)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "float32", torch.float64)  # in which it decomposes
            theirs.step()
        for name, w in params.items():
            np.testing.assert_allclose(
                w, tensors[name].detach().numpy(), rtol=1e-12, atol=1e-12, err_msg=f"step {t}"
            )


def test_shampoo_agrees_with_pytorch_optimizer():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 6))
    tensor = torch.nn.Parameter(torch.asarray(w.copy()))
    ours = instep.Shampoo(lr=0.1, eps=1e-3)
    theirs = pytorch_optimizer.Shampoo([tensor], lr=0.1, matrix_eps=1e-3)
    for t in range(1, STEPS + 1):
        g = rng.standard_normal(w.shape)
        tensor.grad = torch.asarray(g.copy())
        ours.update(w, g)
        theirs.step()
        np.testing.assert_allclose(
            w, tensor.detach().numpy(), rtol=1e-12, atol=1e-12, err_msg=f"step {t}"
        )


def begin(optimizer):
    """Let MARS take the first gradient for the one before it, as the paper does, and not 0."""
    for group in optimizer.param_groups:
        optimizer.init_group(group)
        for tensor in group["params"]:
            optimizer.state[tensor]["last_grad"].copy_(tensor.grad)
