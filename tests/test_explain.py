"""What `explain` says of arrays that are not one line in memory."""

import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, Optimizer

W = np.zeros((6, 5), "float32")


def layouts(params, grads=None, engine="blocked"):
    (bucket,) = Adam(engine=engine).explain(params, grads).buckets
    return bucket.layouts


def test_arrays_that_are_one_line_are_not_mentioned():
    fortran = W.copy(order="F")
    assert layouts({"w": W, "f": fortran}) == {}
    assert layouts({"w": W, "f": fortran}, {"w": W.copy(), "f": fortran.copy(order="K")}) == {}


@pytest.mark.parametrize("engine", ["native", "blocked"])
def test_a_gradient_in_another_order_is(engine):
    engine_runs.require(engine)
    found = layouts(
        {"w": W, "b": np.zeros(3, "f4")}, {"w": W.copy(order="F"), "b": np.zeros(3, "f4")}, engine
    )
    assert list(found) == ["w"]
    assert found["w"].startswith("parameter in C order, gradient in Fortran order: ")


@pytest.mark.parametrize(
    ("gradient", "words"),
    [
        (np.zeros((6, 10), "f4")[:, ::2], "with gaps"),
        (W.copy()[::-1], "reversed"),
        (np.broadcast_to(np.float32(1), W.shape), "broadcast"),
        (np.zeros(121, "u1")[1:].view("f4").reshape(6, 5), "misaligned"),
    ],
)
def test_what_is_odd_about_a_gradient_is_named(gradient, words):
    assert f"gradient {words}:" in layouts(W, gradient)[""]


def test_axes_in_another_order_are_numbered():
    w = np.zeros((2, 3, 4), "f4")
    g = np.zeros((2, 4, 3), "f4").transpose(0, 2, 1)
    assert "gradient with axes in order (0, 2, 1):" in layouts(w, g)[""]


def test_parameters_alone_are_described_as_well():
    assert layouts(W[:, ::2])[""].startswith("parameter with gaps: ")
    assert "parameter with gaps" in str(Adam(engine="blocked").explain(W[:, ::2]))


def test_parameters_without_a_gradient_are_left_out():
    (bucket,) = SGD().explain({"a": W, "b": W.copy()}, {"a": W.copy(), "b": None}).buckets
    assert bucket.leaves == ("a",)


def test_gradients_are_checked_and_counted():
    with pytest.raises(ValueError, match="shapes must be equal"):
        SGD().explain(W, W.T)
    (bucket,) = SGD(engine="blocked").explain(W, W.astype("float64")).buckets
    assert bucket.bytes_per_element == 16


class Saturating(Optimizer):
    @staticmethod
    def rule(xp, w, g, s, h):
        return w - xp.tanh(g), {}


@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_why_a_rule_is_not_fused_is_told_once(engine):
    text = str(Saturating(engine=engine).explain(W))
    assert text.count("cannot be fused: it calls xp.tanh") == 1
    assert "one array operation at a time; bits may differ between libraries" in text
