"""The network: its gradients, written by hand, against differences."""

import numpy as np
import pytest

from instep.commands.compare import backends, network

SIZES = (6, 5, 4, 3)
STEP = 1e-6
BACKENDS = {
    "array_api_compat.numpy": "numpy",
    "array_api_strict": "array_api_strict",
    "array_api_compat.torch": "torch",
    "jax.numpy": "jax",
    "array_api_compat.cupy": "cupy",
}


def problem(dtype=np.float64):
    rng = np.random.default_rng(7)
    params = network.initial_parameters(rng, SIZES)
    params = {
        layer: {
            "weight": arrays["weight"].astype(dtype),
            # Away from zero, so that no ReLU sits on its edge.
            "bias": rng.normal(scale=0.3, size=arrays["bias"].shape).astype(dtype),
        }
        for layer, arrays in params.items()
    }
    images = rng.normal(size=(9, SIZES[0])).astype(dtype)
    labels = np.eye(SIZES[-1], dtype=dtype)[rng.integers(SIZES[-1], size=9)]
    return params, images, labels


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3"])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_gradient_is_the_limit_of_differences(layer, name):
    params, images, labels = problem()
    _, grads = network.loss_and_gradients(np, params, images, labels)
    array = params[layer][name]
    differences = np.empty_like(array)
    for place in np.ndindex(array.shape):
        kept = array[place]
        losses = []
        for moved in (kept + STEP, kept - STEP):
            array[place] = moved
            losses.append(network.loss_and_gradients(np, params, images, labels)[0])
        array[place] = kept
        differences[place] = (losses[0] - losses[1]) / (2 * STEP)
    # The rounding of a loss near 1 over the step, a few 1e-16 / 1e-6, outweighs the curvature.
    np.testing.assert_allclose(grads[layer][name], differences, rtol=0, atol=2e-9)


def test_gradients_have_the_tree_of_the_parameters():
    params, images, labels = problem()
    _, grads = network.loss_and_gradients(np, params, images, labels)
    assert list(grads) == list(params)
    for layer, arrays in params.items():
        assert {name: array.shape for name, array in arrays.items()} == {
            name: array.shape for name, array in grads[layer].items()
        }


def test_loss_of_equal_probabilities_is_the_logarithm_of_the_classes():
    params, images, labels = problem()
    params["layer3"]["weight"][:] = 0.0
    params["layer3"]["bias"][:] = 0.0
    loss, _ = network.loss_and_gradients(np, params, images, labels)
    assert loss == pytest.approx(np.log(3), rel=1e-15)


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_softmax_of_huge_inputs_is_finite(scale):
    log_p = network.log_softmax(np, np.array([[scale, -scale, 0.0]], dtype=np.float32))
    assert np.array_equal(log_p, np.array([[0.0, -2 * scale, -scale]], dtype=np.float32))


def test_initial_weights_have_the_deviation_of_he():
    params = network.initial_parameters(np.random.default_rng(0))
    for layer, inputs in zip(params.values(), network.SIZES, strict=False):
        weight = layer["weight"]
        assert weight.dtype == layer["bias"].dtype == np.float32
        # The deviation of n draws is off by one part in sqrt(2 n); four of those.
        bound = 4 / np.sqrt(2 * weight.size)
        assert weight.std() == pytest.approx(np.sqrt(2 / inputs), rel=bound)
        assert not layer["bias"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_array_library_gives_the_same_gradients_to_rounding(xp, dtype):
    backend = backends.load(BACKENDS[xp.__name__])
    params, images, labels = problem(dtype)
    expected_loss, expected = network.loss_and_gradients(np, params, images, labels)
    there = {
        layer: {name: backend.array(array) for name, array in arrays.items()}
        for layer, arrays in params.items()
    }
    loss, grads = network.loss_and_gradients(
        backend.xp, there, backend.array(images), backend.array(labels)
    )
    # Sums of at most nine products of numbers near 1, in another order, through three layers.
    bound = 200 * float(np.finfo(dtype).eps)
    assert float(loss) == pytest.approx(float(expected_loss), rel=bound)
    for layer, arrays in expected.items():
        for name, array in arrays.items():
            got = backend.numpy(grads[layer][name])
            assert got.dtype == dtype
            np.testing.assert_allclose(got, array, rtol=bound, atol=bound)
