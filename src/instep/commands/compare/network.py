"""A fully connected ReLU network with hand-derived gradients, on the array API.

For a batch of `n` images, rows of `a_0`, and labels as one-hot rows `y`::

    z_k = a_(k-1) @ W_k + b_k,   a_k = max(z_k, 0),   the last layer: p = softmax(z)
    L   = -mean over the batch of sum(y * log p)

Backwards, with ``d_k = dL/dz_k``::

    d = (p - y) / n at the last layer
    dL/dW_k = a_(k-1).T @ d_k,   dL/db_k = sum of the rows of d_k
    d_(k-1) = (d_k @ W_k.T) where z_(k-1) > 0, else 0

Parameters are a tree, ``{"layer1": {"weight": (in, out), "bias": (out,)}, ...}``.
"""

from itertools import pairwise
from typing import Any

import numpy as np

#: Pixels, four hidden layers, digits.
SIZES = (784, 100, 100, 100, 100, 10)


def initial_parameters(
    rng: np.random.Generator, sizes: tuple[int, ...] = SIZES
) -> dict[str, dict[str, Any]]:
    """Draw float32 NumPy weights with He's deviation, ``sqrt(2 / inputs)``; biases are 0.

    Source: He et al. 2015, arXiv:1502.01852.
    """
    return {
        f"layer{k}": {
            "weight": (rng.standard_normal((n, m)) * np.sqrt(2.0 / n)).astype(np.float32),
            "bias": np.zeros(m, dtype=np.float32),
        }
        for k, (n, m) in enumerate(pairwise(sizes), start=1)
    }


def activations(xp: Any, params: dict[str, dict[str, Any]], images: Any) -> list[Any]:
    """Return the input, the output of each hidden layer, and the last layer's `z`."""
    outputs = [images]
    for layer in params.values():
        z = outputs[-1] @ layer["weight"] + layer["bias"]
        outputs.append(z if len(outputs) == len(params) else relu(xp, z))
    return outputs


def relu(xp: Any, z: Any) -> Any:
    """Return `z` where it is positive, else 0."""
    return xp.where(z > 0, z, xp.zeros_like(z))


def log_softmax(xp: Any, z: Any) -> Any:
    """Return ``log(exp(z) / sum(exp(z)))`` of each row; shifted, so that nothing overflows."""
    shifted = z - xp.max(z, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))


def loss_and_gradients(
    xp: Any, params: dict[str, dict[str, Any]], images: Any, labels: Any
) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Return the mean cross entropy of a batch (an array of no dimensions) and its gradients.

    Parameters
    ----------
    xp : namespace
        The array library's namespace.
    params : dict of dict of array
        The parameters, as `initial_parameters` makes them.
    images : array, shape (n, 784)
        One image a row.
    labels : array, shape (n, 10)
        One-hot rows, of the dtype of the parameters.
    """
    outputs = activations(xp, params, images)
    log_p = log_softmax(xp, outputs[-1])
    n = images.shape[0]
    loss = -xp.sum(labels * log_p) / n
    delta = (xp.exp(log_p) - labels) / n
    gradients = {}
    for k in range(len(params), 0, -1):
        inputs, layer = outputs[k - 1], f"layer{k}"
        gradients[layer] = {"weight": inputs.T @ delta, "bias": xp.sum(delta, axis=0)}
        if k > 1:  # the ReLU's output is positive exactly where its input is
            delta = delta @ params[layer]["weight"].T
            delta = xp.where(inputs > 0, delta, xp.zeros_like(delta))
    return loss, dict(reversed(gradients.items()))


def judge(xp: Any, params: dict[str, dict[str, Any]], images: Any, labels: Any) -> tuple[Any, Any]:
    """Return the sum of the cross entropies, and how many most probable classes are right."""
    z = activations(xp, params, images)[-1]
    hits = xp.argmax(z, axis=1) == xp.argmax(labels, axis=1)
    return -xp.sum(labels * log_softmax(xp, z)), xp.sum(xp.astype(hits, xp.int64))
