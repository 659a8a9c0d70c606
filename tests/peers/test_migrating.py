"""What the page for those who come from another library has side by side, side by side."""

import itertools
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

import instep
from instep.transforms import maximize, weight_decay

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")

pytestmark = pytest.mark.peers

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
STEPS = 30

#: What the letters of the page stand for, beside the names of the kit.
LETTERS = {"lr": 0.1, "d": 0.25, "h": 0.5, "w": np.zeros(1), "np": np, "math": math}
HERE = vars(instep) | {"maximize": maximize, "weight_decay": weight_decay} | LETTERS


def pairs(title):
    """Return the pairs of a section: each optimizer of theirs with each of ours in its row."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \| (`.*?) \|", section, re.MULTILINE)
    assert len(rows) > 10
    codes = (map(re.compile(r"`(.*?)`").findall, row) for row in rows)
    return [pair for theirs, ours in codes for pair in itertools.product(theirs, ours)]


class Named:
    """A namespace in which a call of a class or function is put off until there are parameters."""

    def __init__(self, module):
        self.module = module

    def __getitem__(self, name):
        if name in LETTERS:
            return LETTERS[name]
        made = getattr(self.module, name)
        return lambda *values, **keywords: (made, values, keywords)


@pytest.fixture(autouse=True)
def float64():
    """Let the libraries keep their scalars in float64, too."""
    torch.set_default_dtype(torch.float64)
    keras.backend.set_floatx("float64")
    yield
    torch.set_default_dtype(torch.float32)
    keras.backend.set_floatx("float32")


def path_of_torch(code, w, gradients):
    made, values, keywords = eval(code, {}, Named(torch.optim))
    tensor = torch.nn.Parameter(torch.asarray(w.copy()))
    optimizer = made([tensor], *values, **keywords)
    for g in gradients:
        tensor.grad = torch.asarray(g.copy())
        optimizer.step()
        yield tensor.detach().numpy().copy()


def path_of_optax(code, w, gradients):
    made, values, keywords = eval(code, {}, Named(optax))
    transform, params = made(*values, **keywords), jax.numpy.asarray(w.copy())
    state = transform.init(params)
    for g in gradients:
        updates, state = transform.update(jax.numpy.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
        yield params


def path_of_keras(code, w, gradients):
    made, values, keywords = eval(code, {}, Named(keras.optimizers))
    optimizer, variable = made(*values, **keywords), keras.Variable(w.copy(), dtype="float64")
    for g in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g)], [variable])
        yield np.asarray(variable)


PATHS = {"PyTorch": path_of_torch, "optax": path_of_optax, "Keras": path_of_keras}


@pytest.mark.parametrize(
    ("title", "theirs", "ours"), [(title, *pair) for title in PATHS for pair in pairs(title)]
)
def test_a_row_of_the_page_is_one_path(title, theirs, ours):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(20)
    gradients = [rng.standard_normal(20) for _ in range(STEPS)]
    optimizer = eval(ours, dict(HERE))
    for g, expected in zip(gradients, PATHS[title](theirs, w, gradients), strict=True):
        optimizer.update(w, g)
        np.testing.assert_allclose(w, np.asarray(expected), rtol=1e-12, atol=1e-12)
