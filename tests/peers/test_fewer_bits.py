"""Fewer bits beside arrays of other libraries: the bits are those of NumPy's."""

import bits
import numpy as np
import pytest

from instep import Adam

torch = pytest.importorskip("torch")
jnp = pytest.importorskip("jax.numpy")
bfloat16 = pytest.importorskip("ml_dtypes").bfloat16


def of_numpy(x, dtype):
    return x.astype(bfloat16 if dtype == "bfloat16" else dtype)


def of_torch(x, dtype):
    return torch.tensor(x).to(getattr(torch, dtype))


def of_jax(x, dtype):
    return jnp.asarray(x).astype(dtype)


def run(make, dtype, **settings):
    """Return the parameter after some steps, as float32, and its slots."""
    rng = np.random.default_rng(0)
    params = {"w": make(rng.standard_normal(5000).astype("f4"), dtype)}
    optimizer = Adam(lr=0.01, **settings)
    for _ in range(3):
        optimizer.update(params, {"w": make(rng.standard_normal(5000).astype("f4"), dtype)})
    w = params["w"].float().numpy() if make is of_torch else np.asarray(params["w"]).astype("f4")
    return w, optimizer.state_dict()["states"]["w"]["slots"]


SETTINGS = [
    {"state_dtype": "bfloat16"},
    {"state_dtype": "float8"},
    {"master": True, "state_dtype": "float8"},
    {"rounding": "stochastic"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("make", "engine"),
    [
        (of_numpy, "native"),
        (of_numpy, "blocked"),
        (of_torch, "native"),
        (of_torch, "array_api"),
        (of_jax, "native"),
    ],
)
def test_all_libraries_have_the_same_bits(make, engine, dtype, settings):
    w, slots = run(make, dtype, engine=engine, **settings)
    expected, expected_slots = run(of_numpy, dtype, engine="array_api", **settings)
    bits.assert_same_bits(w, expected)
    assert slots.keys() == expected_slots.keys()
    for name, slot in slots.items():
        bits.assert_same_bits(slot, expected_slots[name], name)


def test_a_weight_of_one_learns_in_bfloat16():
    """Its place is 2**-8, and a step of 1/1000 is lost: also torch's, which keeps no master."""
    ends = {}
    for name, settings in {
        "nearest": {},
        "stochastic": {"rounding": "stochastic"},
        "master": {"master": True},
    }.items():
        w = torch.ones(2000, dtype=torch.bfloat16)
        optimizer = Adam(lr=1e-3, **settings)
        for _ in range(500):
            optimizer.update(w, torch.ones_like(w))
        ends[name] = w.float().mean().item()
    theirs = torch.ones(2000, dtype=torch.bfloat16, requires_grad=True)
    peer = torch.optim.Adam([theirs], lr=1e-3, fused=True)
    for _ in range(500):
        theirs.grad = torch.ones_like(theirs)
        peer.step()
    assert ends["nearest"] == theirs.float().mean().item() == 1.0
    assert ends["master"] == pytest.approx(0.5, abs=0.002)
    assert ends["stochastic"] == pytest.approx(0.5, abs=0.002)
