r"""
A training run in 16 bits
=========================

Weights in ``float16`` take half of the memory. They also have three digits only, and what is
smaller than :math:`6 \cdot 10^{-8}` is nothing in them. This is a training run that gets along
with it, and has what else long runs have: a schedule, clipping, an average of the weights, a log,
and checkpoints.

The digits are 5,000 of the MNIST set, which come with instep
(``pip install 'instep[compare]'``).
"""

import tempfile
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from instep import AdamW, chain
from instep.commands.compare.digits import five_thousand
from instep.schedules import Cosine, WarmUp
from instep.transforms import average, clip_by_global_norm, dynamic_scale

images, labels = five_thousand()
images = images.astype("float16")
order = np.random.default_rng(0).permutation(len(images))
held_out, training = order[:1000], order[1000:]

# %%
# The network
# -----------
#
# Three layers, as a list of dicts. Products of matrices are added up in ``float32``, as a processor
# for 16 bits does it; weights, activations and gradients are ``float16``.

SIZES = (784, 128, 64, 10)


def initial_parameters(seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "weight": (rng.standard_normal((n, m)) * np.sqrt(2 / n)).astype("float16"),
            "bias": np.zeros(m, "float16"),
        }
        for n, m in pairwise(SIZES)
    ]


def product(a, b):
    return (a.astype("float32") @ b.astype("float32")).astype("float16")


def activations(params, x):
    found = [x]
    for layer in params:
        z = product(found[-1], layer["weight"]) + layer["bias"]
        found.append(z if layer is params[-1] else np.maximum(z, 0))
    return found


def loss_and_gradients(params, x, label, scale):
    """Return the loss, and the gradients of `scale` times the loss."""
    found, rows = activations(params, x), np.arange(len(x))
    scores = found[-1].astype("float32")
    log_p = scores - scores.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    delta = np.exp(log_p)
    delta[rows, label] -= 1
    with np.errstate(over="ignore"):  # what is too large is infinite, and the optimizer sees it
        delta = (delta * (scale / len(x))).astype("float16")
    grads = []
    for layer, inputs in zip(reversed(params), reversed(found[:-1]), strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            grads.append({"weight": product(inputs.T, delta), "bias": delta.sum(axis=0)})
            delta = product(delta, layer["weight"].T) * (inputs > 0)
    return -log_p[rows, label].mean(), grads[::-1]


def accuracy(params, chosen=held_out):
    scores = activations(params, images[chosen])[-1]
    return (scores.argmax(axis=1) == labels[chosen]).mean()


# %%
# The optimizer
# -------------
#
# A chain is read from the gradient to the parameter:
#
# - ``dynamic_scale`` divides by the scale of the loss, and finds out how large that can be. A step
#   with an infinity in it is turned away, and the scale halved.
# - ``clip_by_global_norm`` shortens gradients whose norm is above 1.
# - ``AdamW`` steps. Its learning rate warms up and comes down; ``master`` keeps the weights in
#   ``float32`` in its state, so that small steps are not lost.
# - ``average`` keeps a running mean of the weights.

STEPS = 400


def make_optimizer():
    return chain(
        dynamic_scale(),
        clip_by_global_norm(1.0),
        AdamW(lr=WarmUp(40, then=Cosine(3e-3, steps=STEPS - 40)), weight_decay=0.05, master=True),
        average(0.98),
    )


params, optimizer = initial_parameters(), make_optimizer()
(bucket,) = optimizer.explain(params).buckets
print(f"{bucket.passes} passes, {bucket.bytes_per_element} bytes an element")

# %%
# However many parts there are, a step is two passes over memory: one for the norm, and one for all
# the rest.
#
# The loop
# --------
#
# ``optimizer.scale`` is what the next loss is to be multiplied by, and ``optimizer.readings`` has
# what the step has computed anyway, by name. Nothing is computed twice for the log.


def train(params, optimizer, until, log):
    while optimizer.t < until:
        rng = np.random.default_rng((1, optimizer.t, optimizer.skipped))
        chosen = rng.choice(training, 100)
        loss, grads = loss_and_gradients(params, images[chosen], labels[chosen], optimizer.scale)
        optimizer.update(params, grads)
        seen = optimizer.readings
        log.append((loss, seen["AdamW_lr"], seen["clip_by_global_norm_norm"]))


log = []
train(params, optimizer, STEPS // 2, log)
print(f"after {optimizer.t} steps: {accuracy(params):.1%} right, scale {optimizer.scale:,.0f}")

# %%
# A checkpoint
# ------------
#
# The optimizer saves itself, schedule, average and all; weights are ours to keep. Batches are drawn
# by the number of the step, so that the run needs to remember nothing else.

folder = tempfile.TemporaryDirectory()
checkpoint = Path(folder.name)
optimizer.save(checkpoint / "optimizer.npz")
arrays = [array for layer in params for array in layer.values()]
np.savez(checkpoint / "weights.npz", *arrays)

# %%
# We go on to the end, and then pretend that the computer had been switched off.

train(params, optimizer, STEPS, log)

resumed = make_optimizer().load(checkpoint / "optimizer.npz")
again = initial_parameters(seed=9)  # other weights, which are about to be replaced
with np.load(checkpoint / "weights.npz") as stored:
    targets = [array for layer in again for array in layer.values()]
    for target, name in zip(targets, stored.files, strict=True):
        target[...] = stored[name]
train(again, resumed, STEPS, [])

same = all((a[name] == b[name]).all() for a, b in zip(params, again, strict=True) for name in a)
print(f"resumed from step {STEPS // 2}: {'the same bits' if same else 'OTHER BITS'}")
folder.cleanup()

# %%
# The average
# -----------
#
# ``answer_in_place`` puts the average in the place of the weights for as long as the block lasts.

print(f"weights: {accuracy(params):.1%} right")
with optimizer.answer_in_place(params):
    print(f"average: {accuracy(params):.1%} right")
print(f"steps: {optimizer.t}, turned away: {optimizer.skipped}, scale: {optimizer.scale:,.0f}")

# %%
# The log
# -------

losses, rates, norms = np.array(log).T
figure, places = plt.subplots(1, 3, figsize=(8, 2.6))
places[0].semilogy(losses, linewidth=0.8)
places[0].set(title="loss", xlabel="step")
places[1].plot(rates)
places[1].set(title="learning rate", xlabel="step")
places[2].semilogy(norms, linewidth=0.8)
places[2].axhline(1.0, color="C1", linewidth=0.8)
places[2].set(title="norm of the gradient", xlabel="step")
plt.show()

# %%
# What next
# ---------
#
# - :doc:`/composing` has all transforms, and what they cost.
# - :doc:`/fewer-bytes` keeps state in 16 or 8 bits, too.
# - :doc:`/saving` says what is in a checkpoint, and what goes together.
