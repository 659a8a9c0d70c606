r"""
Phases from diffraction
=======================

In ptychography a beam of light is moved over an object, and at each place a detector counts the
photons far behind it: the squared modulus of a Fourier transform. The phases are lost. Since
neighbouring places overlap, the object can be found all the same, with its modulus and its phase,
by an optimizer of complex numbers.

The object has constraints: it lies in an aperture, and it makes no light, so that its modulus is
at most 1. And the run is stopped half-way, saved and resumed.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from instep import FISTA, LBFGS, Adam, chain, check_gradient, minimize
from instep.transforms import project_modulus, support

# %%
# An object and a beam
# --------------------
#
# The object is a star that absorbs and a ring that delays. The beam is a little out of focus, and
# has 50,000 photons.

SIZE, WINDOW = 64, 32


def grid(size):
    axis = np.arange(size) - (size - 1) / 2
    return np.meshgrid(axis, axis)


x, y = grid(SIZE)
radius = np.hypot(x, y) / SIZE
aperture = radius < 0.45
star = np.where(np.cos(9 * np.arctan2(y, x) + 0.5) > 0, 1.0, 0.4)
ring = np.where((radius > 0.2) & (radius < 0.32), 1.2, 0.0)
specimen = aperture * star * np.exp(1j * ring)

beam = np.exp((-1 / 90 + 0.04j) * sum(axis**2 for axis in grid(WINDOW)))
beam *= np.sqrt(50_000 / (np.abs(beam) ** 2).sum())

# %%
# The measurement
# ---------------
#
# The beam visits 49 places, and the detector counts.

rng = np.random.default_rng(0)
even = np.linspace(1, SIZE - WINDOW - 1, 7)
corners = np.stack(np.meshgrid(even, even), axis=-1).reshape(-1, 2)
corners = np.rint(corners + rng.uniform(-1, 1, corners.shape)).astype(int)


def fields(w):
    """Return the fields on the detector, one for each place of the beam."""
    windows = np.stack([w[i : i + WINDOW, j : j + WINDOW] for i, j in corners])
    return np.fft.fft2(beam * windows, norm="ortho")


counts = rng.poisson(np.abs(fields(specimen)) ** 2)

figure, places = plt.subplots(1, 5, figsize=(8, 1.9))
for axes, place in zip(places, (0, 12, 24, 36, 48), strict=True):
    axes.imshow(np.log1p(np.fft.fftshift(counts[place])))
    axes.set_title(f"place {place}", fontsize=9)
    axes.set_axis_off()
plt.show()

# %%
# What is to be small
# -------------------
#
# An object :math:`w` is as good as the moduli that it leads to:
#
# .. math:: f(w) = \frac12 \sum_j \left\| |F(P\, w_j)| - \sqrt{I_j} \right\|^2
#
# where :math:`w_j` is what the beam :math:`P` sees of it at place :math:`j`, :math:`F` the Fourier
# transform and :math:`I_j` the counts. Of complex numbers, the gradient is twice the derivative by
# the conjugate: its real part is the derivative by the real part, and so for the imaginary part.


def misfit(w):
    field = fields(w)
    modulus = np.abs(field)
    missed = modulus - np.sqrt(counts)
    phase = field / np.where(modulus == 0, 1, modulus)
    back = beam.conj() * np.fft.ifft2(missed * phase, norm="ortho")
    gradient = np.zeros_like(w)
    for (i, j), window in zip(corners, back, strict=True):
        gradient[i : i + WINDOW, j : j + WINDOW] += window
    return 0.5 * (missed**2).sum(), gradient


# %%
# A gradient by hand is easily wrong. ``check_gradient`` compares it with differences of values.

print(check_gradient(misfit, aperture * np.exp(1j * rng.standard_normal((SIZE, SIZE)))))

# %%
# A loop of one's own
# -------------------
#
# Constraints come after the optimizer in a chain, and each step ends inside of them.


def make_optimizer():
    return chain(Adam(lr=0.3), support(aperture), project_modulus(upper=1.0))


def descend(w, optimizer, until, values):
    while optimizer.t < until:
        value, gradient = misfit(w)
        optimizer.update(w, gradient)
        values.append(value)


w, optimizer, values = aperture.astype(complex), make_optimizer(), []
descend(w, optimizer, 50, values)

# %%
# Here the run is stopped. The optimizer goes into one file and the object into another. ``save``
# puts a whole file in the place of an old one; ``numpy.save`` writes into the old one, which is lost
# if the process is killed meanwhile. So the object is written under another name, and renamed.

folder = tempfile.TemporaryDirectory()
draft = Path(folder.name) / "draft.npy"
np.save(draft, w)
optimizer.save(Path(folder.name) / "optimizer.npz")
draft.replace(Path(folder.name) / "object.npy")

descend(w, optimizer, 100, values)

# %%
# Another day, another process: it loads both and goes on. The object that comes out is the same to
# the last bit.

resumed = make_optimizer().load(Path(folder.name) / "optimizer.npz")
again = np.load(Path(folder.name) / "object.npy")
descend(again, resumed, 100, [])
print(f"from step 50 on: {'the same bits' if np.array_equal(again, w) else 'OTHER BITS'}")
folder.cleanup()

# %%
# Or ``minimize``
# ---------------
#
# Where all the data is at hand, :func:`~instep.minimize` runs the loop, and its methods find the
# length of their steps themselves. ``FISTA`` takes the same constraints. ``LBFGS`` has none for
# complex numbers; it stays in the aperture because it starts there, and gets no gradient outside.


def misfit_inside(w):
    value, gradient = misfit(w)
    return value, aperture * gradient


start = aperture.astype(complex)
within = [support(aperture), project_modulus(upper=1.0)]
results = {
    "FISTA": minimize(misfit, start.copy(), FISTA(1e-3, within), steps=50),
    "LBFGS": minimize(misfit_inside, start.copy(), LBFGS(), steps=100),
}

# %%
# What came out
# -------------
#
# The phase of the object as a whole cannot be known, so it is turned to that of the specimen.


def aligned(w):
    product = np.vdot(w, specimen)
    return w * product / abs(product)


def error(w):
    return np.linalg.norm(aligned(w) - specimen) / np.linalg.norm(specimen)


found = {"Adam": w} | {name: result.x for name, result in results.items()}
for name, image in found.items():
    print(f"{name:6} misfit {misfit(image)[0]:6,.0f}, error of the object {error(image):.1%}")
print(f"The specimen itself has a misfit of {misfit(specimen)[0]:,.0f}: counts are noisy.")

figure, axes = plt.subplots()
axes.loglog(range(1, len(values) + 1), values, label="Adam")
for name, result in results.items():
    axes.loglog(*zip(*((r.evaluations, r.value) for r in result.history), strict=True), label=name)
axes.set(title="Misfit", xlabel="evaluations")
axes.legend()
plt.show()

# %%

figure, places = plt.subplots(2, 4, figsize=(8, 4.2))
shown = {"the specimen": specimen} | found
for (modulus, phase), (name, image) in zip(places.T, shown.items(), strict=True):
    modulus.imshow(np.abs(image), vmin=0, vmax=1)
    phase.imshow(np.where(aperture, np.angle(aligned(image)), np.nan), vmin=-0.8, vmax=2)
    modulus.set_title(name, fontsize=10)
    modulus.set_axis_off()
    phase.set_axis_off()
plt.show()

# %%
# Modulus above, phase below. All fit the counts better than the specimen does: what is left is
# noise. There the constraints count.
#
# What next
# ---------
#
# - :doc:`/complex` says what complex parameters mean, and :doc:`/constraints` has the other sets.
# - :doc:`/minimizing` compares the methods by evaluations, with a script that runs on a GPU, too.
# - On a GPU the arrays here are CuPy's, and the optimizer is the same: :doc:`/cuda`.
