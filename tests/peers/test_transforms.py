"""Transforms against those of optax and PyTorch, where they have them, in float64."""

import numpy as np
import pytest

from instep import SGD, Adafactor, Adam, AdamW, chain
from instep.transforms import (
    accumulate,
    adaptive_clip,
    average,
    centralize,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    decoupled_weight_decay,
    dynamic_scale,
    lookahead,
    maximize,
    project,
    project_halfspace,
    project_l1,
    project_norm,
    project_simplex,
    scale_gradients,
    skip_nonfinite,
    trust_ratio,
    weight_decay,
)

pytestmark = pytest.mark.peers

STEPS = 30
LR = 0.1

# Both sides take some ten operations a step on numbers of order 1, so after 30 steps they can be
# apart by some hundred units of 1e-16 for each; norms add 60 elements.
TOLERANCE = {"rtol": 0, "atol": 1e-12}


def problem(seed=0):
    rng = np.random.default_rng(seed)
    return {"a": rng.standard_normal((5, 7)), "b": 3 * rng.standard_normal(25)}


GRADIENTS = [problem(seed) for seed in range(1, STEPS + 1)]


def path(optimizer, gradients=GRADIENTS):
    params, seen = problem(), []
    for grads in gradients:
        optimizer.update(params, grads)
        seen.append({key: w.copy() for key, w in params.items()})
    return seen


def assert_same_path(got, expected):
    for step, (one, other) in enumerate(zip(got, expected, strict=True), 1):
        for key in one:
            np.testing.assert_allclose(
                one[key], np.asarray(other[key]), **TOLERANCE, err_msg=f"{key!r}, step {step}"
            )


# optax -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def optax():
    return pytest.importorskip("optax", reason="optax is not installed")


def optax_path(optax, transformation, gradients=GRADIENTS, after=None):
    import jax

    params = jax.tree.map(jax.numpy.asarray, problem())
    state, seen = transformation.init(params), []
    update = jax.jit(transformation.update)
    for grads in gradients:
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        params = params if after is None else after(params)
        seen.append(params)
    return seen


@pytest.mark.parametrize(
    ("parts", "theirs"),
    [
        ((clip_by_value(0.5),), lambda o: [o.clip(0.5)]),
        ((clip_by_global_norm(2.0),), lambda o: [o.clip_by_global_norm(2.0)]),
        ((weight_decay(0.3),), lambda o: [o.add_decayed_weights(0.3)]),
        ((scale_gradients(0.7),), lambda o: [o.scale(0.7)]),
        ((maximize(),), lambda o: [o.scale(-1.0)]),
        ((centralize(),), lambda o: [o.centralize()]),
        ((adaptive_clip(0.2, units="last"),), lambda o: [o.adaptive_grad_clip(0.2)]),
        ((adaptive_clip(0.2, 0.5),), lambda o: [o.adaptive_grad_clip(0.2, 0.5, axis=-1)]),
        (
            (clip_by_global_norm(3.0), weight_decay(0.1), clip_by_value(0.2)),
            lambda o: [o.clip_by_global_norm(3.0), o.add_decayed_weights(0.1), o.clip(0.2)],
        ),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
@pytest.mark.parametrize("adam", [False, True], ids=["SGD", "Adam"])
def test_transforms_of_gradients_are_those_of_optax(optax, parts, theirs, adam):
    main = (Adam(LR), optax.adam(LR)) if adam else (SGD(LR), optax.sgd(LR))
    expected = optax_path(optax, optax.chain(*theirs(optax), main[1]))
    assert_same_path(path(chain(*parts, main[0])), expected)


@pytest.mark.parametrize(
    ("transform", "theirs"),
    [
        (decoupled_weight_decay(0.3), lambda o: o.add_decayed_weights(0.3)),
        (trust_ratio(), lambda o: o.scale_by_trust_ratio()),
        (trust_ratio(0.1), lambda o: o.scale_by_trust_ratio(trust_coefficient=0.1)),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_transforms_of_the_step_are_those_of_optax_before_the_learning_rate(
    optax, transform, theirs
):
    before = optax.chain(optax.scale_by_adam(), theirs(optax), optax.scale(-LR))
    assert_same_path(path(chain(Adam(LR), transform)), optax_path(optax, before))


def test_the_norm_of_a_tensor_is_clipped_as_by_optax(optax):
    """By root mean squares there, so the limits differ by the root of the size."""
    gradients = [{"b": grads["b"]} for grads in GRADIENTS]
    params, seen = {"b": problem()["b"]}, []
    optimizer = chain(clip_by_norm(6.0), SGD(LR))
    for grads in gradients:
        optimizer.update(params, grads)
        seen.append({"b": params["b"].copy()})
    clip = optax.chain(optax.clip_by_block_rms(6.0 / 5.0), optax.sgd(LR))
    state, w = clip.init(problem()["b"]), problem()["b"]
    for grads, got in zip(gradients, seen, strict=True):
        updates, state = clip.update(grads["b"], state, w)
        w = w + np.asarray(updates)
        np.testing.assert_allclose(got["b"], w, **TOLERANCE)


@pytest.mark.parametrize("k", [2, 5])
def test_gradients_are_accumulated_as_by_optax(optax, k):
    theirs = optax.MultiSteps(optax.adam(LR), every_k_schedule=k, accumulator_dtype="float64")
    assert_same_path(path(chain(accumulate(k), Adam(LR))), optax_path(optax, theirs))


@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (3, 0.8), (1, 0.25)])
def test_lookahead_is_that_of_optax(optax, k, alpha):
    import jax

    params = optax.LookaheadParams.init_synced(jax.tree.map(jax.numpy.asarray, problem()))
    theirs = optax.lookahead(optax.adam(LR), sync_period=k, slow_step_size=alpha)
    state, expected = theirs.init(params), []
    update = jax.jit(theirs.update)
    for grads in GRADIENTS:
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        expected.append(params.fast)
    assert_same_path(path(chain(Adam(LR), lookahead(k, alpha))), expected)


def test_an_average_is_that_of_optax(optax):
    ours, params = chain(AdamW(LR), average(0.9)), problem()
    ema = optax.ema(0.9, debias=True)
    state = ema.init(params)
    for grads in GRADIENTS:
        ours.update(params, grads)
        expected, state = ema.update(params, state)
        assert_same_path([ours.averaged(params)], [expected])


def test_projections_are_those_of_optax(optax):
    def box(params):
        return {k: optax.projections.projection_box(w, -0.5, 0.75) for k, w in params.items()}

    expected = optax_path(optax, optax.sgd(LR), after=box)
    assert_same_path(path(chain(SGD(LR), project(-0.5, 0.75))), expected)

    def ball(params):
        return {k: optax.projections.projection_l2_ball(w, 4.0) for k, w in params.items()}

    expected = optax_path(optax, optax.sgd(LR), after=ball)
    assert_same_path(path(chain(SGD(LR), project_norm(4.0))), expected)

    projections = {
        project_simplex(2.0): lambda w: optax.projections.projection_simplex(w, 2.0),
        project_l1(3.0): lambda w: optax.projections.projection_l1_ball(w, 3.0),
        project_halfspace(0.5, -1.0): lambda w: optax.projections.projection_halfspace(
            w, np.full(w.shape, 0.5), -1.0
        ),
    }
    for ours, nearest in projections.items():

        def each(params, nearest=nearest):
            return {k: nearest(w) for k, w in params.items()}

        expected = optax_path(optax, optax.sgd(LR), after=each)
        assert_same_path(path(chain(SGD(LR), ours)), expected)


def test_steps_that_are_not_finite_are_skipped_as_by_optax(optax):
    gradients = list(GRADIENTS)
    for step in (0, 3, 4, 17):
        gradients[step] = {**gradients[step], "b": gradients[step]["b"] * np.inf}
    theirs = optax.apply_if_finite(optax.adam(LR), max_consecutive_errors=5)
    optimizer = chain(skip_nonfinite(), Adam(LR))
    assert_same_path(path(optimizer, gradients), optax_path(optax, theirs, gradients))
    assert (optimizer.skipped, optimizer.t) == (4, STEPS - 4)


# PyTorch ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def torch_path(torch, make, before=lambda tensors: None, after=lambda tensors: None):
    tensors = {key: torch.tensor(w, requires_grad=True) for key, w in problem().items()}
    optimizer, seen = make(list(tensors.values())), []
    for grads in GRADIENTS:
        for key, w in tensors.items():
            w.grad = torch.tensor(grads[key])
        before(list(tensors.values()))
        optimizer.step()
        after(tensors)
        seen.append({key: w.detach().numpy().copy() for key, w in tensors.items()})
    return seen


def test_clipping_is_that_of_torch(torch):
    clip = torch.nn.utils
    expected = torch_path(
        torch, lambda p: torch.optim.SGD(p, LR), lambda p: clip.clip_grad_value_(p, 0.5)
    )
    assert_same_path(path(chain(clip_by_value(0.5), SGD(LR))), expected)
    # They divide by the norm plus 1e-6, which scaled gradients make small beside it.
    expected = torch_path(
        torch,
        lambda p: torch.optim.SGD(p, LR),
        lambda p: [w.grad.mul_(1e7) for w in p] and clip.clip_grad_norm_(p, 2.0),
    )
    assert_same_path(path(chain(scale_gradients(1e7), clip_by_global_norm(2.0), SGD(LR))), expected)


@pytest.mark.parametrize(
    ("parts", "keywords"),
    [((maximize(),), {"maximize": True}), ((weight_decay(0.3),), {"weight_decay": 0.3})],
    ids=str,
)
def test_options_of_optimizers_are_those_of_torch(torch, parts, keywords):
    expected = torch_path(torch, lambda p: torch.optim.Adam(p, LR, **keywords))
    assert_same_path(path(chain(*parts, Adam(LR))), expected)


def test_a_decayed_adafactor_is_that_of_torch(torch):
    expected = torch_path(torch, lambda p: torch.optim.Adafactor(p, LR, weight_decay=0.3))
    adafactor = Adafactor(LR, eps1=2.0**-52, eps1_as="bound")
    assert_same_path(path(chain(adafactor, decoupled_weight_decay(0.3))), expected)


def test_a_clipped_averaged_adamw_is_that_of_torch(torch):
    """Their average starts at the parameters, so a zero of weight 0.9**t is the difference."""
    sums = {key: np.zeros_like(w) for key, w in problem().items()}

    def follow(tensors):
        for key, w in tensors.items():
            sums[key] = 0.9 * sums[key] + 0.1 * w.detach().numpy()

    clip = torch.nn.utils.clip_grad_norm_
    theirs = torch_path(
        torch,
        lambda p: torch.optim.AdamW(p, LR, weight_decay=0.1),
        lambda p: [w.grad.mul_(1e7) for w in p] and clip(p, 2.0),
        follow,
    )
    parts = scale_gradients(1e7), clip_by_global_norm(2.0), AdamW(LR, weight_decay=0.1)
    optimizer, params = chain(*parts, average(0.9)), problem()
    for grads in GRADIENTS:
        optimizer.update(params, grads)
    assert_same_path([params], theirs[-1:])
    expected = {key: total / (1 - 0.9**STEPS) for key, total in sums.items()}
    assert_same_path([optimizer.averaged(params)], [expected])


@pytest.mark.parametrize(
    ("how", "bad"),
    [
        ((2.0**16, 2.0, 0.5, 2000), {0, 1, 2, 8}),
        ((1024.0, 2.0, 0.5, 3), {3, 6, 7, 8, 13, 20}),
        ((8.0, 4.0, 0.25, 1), {2, 5, 6, 25}),
        ((3.0, 1.5, 0.75, 4), {9, 10, 20}),
    ],
    ids=str,
)
def test_the_scale_of_the_loss_is_that_of_pytorch(how, bad):
    """Step by step: the scale, the steps that are taken, and their bits."""
    torch = pytest.importorskip("torch")
    initial, growth, backoff, interval = how
    scaler = torch.amp.GradScaler(
        "cpu",
        init_scale=initial,
        growth_factor=growth,
        backoff_factor=backoff,
        growth_interval=interval,
    )
    own = chain(dynamic_scale(*how), SGD(lr=0.5))
    w = np.random.default_rng(0).standard_normal(9).astype("f4")
    theirs = torch.tensor(w, requires_grad=True)
    stepper = torch.optim.SGD([theirs], lr=0.5)
    for call in range(STEPS):
        x = np.random.default_rng(call).standard_normal(9).astype("f4")
        x[call % 9] = np.inf if call in bad else x[call % 9]
        stepper.zero_grad()
        scaler.scale((torch.tensor(x) * theirs).sum()).backward()
        scaler.step(stepper)
        scaler.update()
        own.update(w, np.float32(own.scale) * x)
        assert own.scale == scaler.get_scale()
        assert np.array_equal(w, theirs.detach().numpy())
    assert own.skipped == len(bad)
