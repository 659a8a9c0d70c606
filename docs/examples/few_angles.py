r"""
An image from few projections
=============================

A tomograph measures sums along rays. From 30 angles, with noise, they do not say what an image of
2,304 pixels looks like. That it is nowhere negative helps, and so does it to know that it has few
edges. Both are said to the method that minimizes, and a run can be resumed from a file.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from instep import FISTA, LBFGS, minimize
from instep.transforms import project, total_variation

# %%
# Sums along rays
# ---------------
#
# A pixel at :math:`(x, y)` falls on the detector at :math:`x \cos \varphi + y \sin \varphi`, between
# two bins, which share it. To go forward is to add into bins; to go back is to read them.

SIZE, ANGLES = 48, 30
BINS = int(np.ceil(SIZE * np.sqrt(2))) + 2

axis = np.arange(SIZE) - (SIZE - 1) / 2
x, y = np.tile(axis, SIZE), np.repeat(axis, SIZE)
angle = np.linspace(0, np.pi, ANGLES, endpoint=False)[:, None]
place = x * np.cos(angle) + y * np.sin(angle) + (BINS - 1) / 2
left = np.floor(place)
share = place - left
first = left.astype(int) + BINS * np.arange(ANGLES)[:, None]


def forward(image):
    flat = image.ravel()
    lower = np.bincount(first.ravel(), ((1 - share) * flat).ravel(), ANGLES * BINS)
    upper = np.bincount(first.ravel() + 1, (share * flat).ravel(), ANGLES * BINS)
    return lower + upper


def back(sums):
    return ((1 - share) * sums[first] + share * sums[first + 1]).sum(axis=0).reshape(SIZE, SIZE)


# %%
# The measurement
# ---------------

across, down = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2)
phantom = ((across / 0.8) ** 2 + (down / 0.9) ** 2 < 1) * 1.0
phantom -= (((across - 0.2) / 0.25) ** 2 + ((down + 0.1) / 0.4) ** 2 < 1) * 0.8
phantom += (((across + 0.3) / 0.2) ** 2 + ((down - 0.3) / 0.2) ** 2 < 1) * 0.5

exact = forward(phantom)
measured = exact + 0.02 * exact.max() * np.random.default_rng(0).standard_normal(len(exact))

figure, (before, after) = plt.subplots(1, 2, figsize=(8, 3))
before.imshow(phantom, vmin=0, vmax=1.5)
before.set(title="the object")
after.imshow(measured.reshape(ANGLES, BINS), aspect="auto")
after.set(title="what is measured", xlabel="bin", ylabel="angle")
before.set_axis_off()
plt.show()

# %%
# Nowhere negative
# ----------------
#
# Half of the sum of squares is to be small. ``LBFGS`` takes bounds.


def misfit(image):
    missed = forward(image) - measured
    return 0.5 * (missed**2).sum(), back(missed)


def error(image):
    return np.linalg.norm(image - phantom) / np.linalg.norm(phantom)


images = {}
for steps in (10, 50, 200):
    result = minimize(misfit, np.zeros((SIZE, SIZE)), LBFGS(lower=0.0), steps=steps)
    images[f"LBFGS, {steps} steps"] = result.x
    print(f"{steps:3} steps: misfit {result.fun:8.1f}, error {error(result.x):.0%}")

# %%
# The misfit gets smaller, and the image worse: it learns the noise. Early stopping would help. More
# helps to say what is wanted.
#
# Few edges
# ---------
#
# The *total variation* of an image is the sum of the lengths of its gradients. ``FISTA`` takes such a
# penalty as a proximal step, after which the image is put back to where it is not negative.
# ``callback`` is called after each step with the result so far, and ends the run with
# ``StopIteration``.


def make_method():
    return FISTA(1.0, [total_variation(3.0), project(lower=0.0)])


def enough(now):
    """Stop where a step moves the image by less than a thousandth of its length."""
    if now.history[-1].step < 1e-3 * np.linalg.norm(now.x):
        raise StopIteration("the image stands still")


result = minimize(misfit, np.zeros((SIZE, SIZE)), make_method(), steps=200, callback=enough)
images["total variation"] = result.x
print(f"{result.nit} steps: {result.message}")
print(f"error {error(result.x):.0%}")

# %%
# Stop and resume
# ---------------
#
# A result saves itself, with the image and all that the method knows. A run that resumes it goes on
# as if it had not been stopped.

whole = minimize(misfit, np.zeros((SIZE, SIZE)), make_method(), steps=40)
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "half-way.npz"
    minimize(misfit, np.zeros((SIZE, SIZE)), make_method(), steps=20).save(file)
    resumed = minimize(misfit, np.zeros((SIZE, SIZE)), make_method(), steps=40, resume=file)
print(f"from step 20 on: {'the same bits' if np.array_equal(whole.x, resumed.x) else 'OTHER BITS'}")

# %%
# The images
# ----------

figure, places = plt.subplots(1, 5, figsize=(8, 2))
for axes, (name, image) in zip(places, ({"the object": phantom} | images).items(), strict=True):
    axes.imshow(image, vmin=0, vmax=1.5)
    axes.set_title(name, fontsize=9)
    axes.set_axis_off()
plt.show()

# %%
# What next
# ---------
#
# - :doc:`/constraints` has all sets and penalties.
# - :doc:`/minimizing` says which method is for what, and when a run ends.
