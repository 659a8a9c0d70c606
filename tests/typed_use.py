"""Calls that type checkers are to accept, with the types of what they return, and to refuse.

`check_snippets.py` gives it to mypy and pyright: an ignored error that is none is an error there.
"""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from instep import LBFGS, SGD, Adam, AdamW, Muon, Optimizer, Transform, chain, partition
from instep.schedules import Cosine
from instep.transforms import clip_by_global_norm, scale_gradients

Array = NDArray[np.float64]


class Scaled(Optimizer):
    lr: float = 0.1

    def __init__(self, scale: float) -> None:
        super().__init__(lr=0.1 * scale, engine="blocked")
        self._scale = scale


class scaled(Transform):  # noqa: N801  (as those of the kit)
    stage = "gradient"
    factor: float = 1.0

    def __init__(self, percent: float) -> None:
        super().__init__(factor=percent / 100)


def returned(w: Array, params: dict[str, Array], pair: tuple[Array, Array]) -> None:
    optimizer = chain(clip_by_global_norm(1.0), Adam())
    assert_type(Adam().update(w, w), Array)
    assert_type(optimizer.update(params, params), dict[str, Array])
    assert_type(partition({"*": SGD()}).update(pair, pair), tuple[Array, Array])
    assert_type(Adam().update(1.5, 2), float)
    assert_type(optimizer.answer(params), dict[str, Array])
    assert_type(optimizer.flush(params), dict[str, Array])
    with optimizer.answer_in_place(params) as answer:
        assert_type(answer, dict[str, Array])


def accepted(w: Array, names: list[str], overrides: dict[str, dict[str, float]]) -> None:
    Adam(frozen=("head",))
    Adam(frozen=["head"])
    Adam(frozen={"head"})
    Adam(frozen=names)
    Adam(frozen=("head", lambda path, w: "bias" in path and w.ndim == 1))
    AdamW(overrides=overrides)
    AdamW(overrides={"head": {"lr": 0.1}, lambda path, w: w.ndim == 1: {"weight_decay": 0.0}})
    branches = {"hidden": SGD(lr=1.0), "*": SGD(lr=0.5)}
    partition(branches)
    partition({lambda path, w: w.ndim == 2: Muon(), "*": AdamW()})
    Adam(lr=w)
    Adam(lr=Cosine(0.1, steps=10), engine="blocked", state_dtype="bfloat16")
    Adam(lr=lambda step: 0.1 / step)
    scale_gradients(Cosine(1.0, steps=10))


def set_later(optimizer: Optimizer, adam: Adam) -> None:
    optimizer.lr = 0.5 * optimizer.lr
    optimizer.frozen = ("head",)
    adam.lr = adam.beta1 = 0.5
    adam.lr = Cosine(0.1, steps=10)
    chain(adam).lr = 0.1
    chain(adam).beta1 = 0.1
    partition({"*": adam}).branches["*"].lr = 0.1
    assert_type(Scaled(2.0).lr, float)
    chain(scaled(50.0), Scaled(scale=3.0)).seed = 1


def refused() -> None:
    Adam().lrr = 3  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    Adam().beta1 = "a"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    Scaled(lr=0.1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Scaled(1.0).rate = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    Adam(frozen="head")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LBFGS(frozen="head")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    chain(Adam(), frozen="head")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Adam(engine="gpu")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Adam(state_dtype="float16")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Adam(rounding="up")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Adam(lr="0.1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Adam(betas=(0.9, 0.999))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Adam().step()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
