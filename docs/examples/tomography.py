"""Tomography: an image that is nowhere negative, from few and noisy projections.

    python tomography.py                         print how many evaluations each method takes
    python tomography.py --output tomography.png draw it, too (needs matplotlib)
    python tomography.py --backend cupy          the same on a GPU

The image has 48 by 48 pixels, and rays go through it from 30 angles. What is minimized is half of
the sum of squares of what the projections miss, over all images that are nowhere negative. That is
a convex problem, so that methods can be compared by how many evaluations they take to come near to
its lowest value. Where SciPy is installed, its L-BFGS-B takes part.

The image at the lowest value is not the one to want: it fits the noise. With a penalty on its
total variation, which is a proximal step of FISTA, it is.
"""

import argparse
import importlib
import math
import sys

import numpy as np

from instep import FISTA, LBFGS, Momentum, Nesterov, chain, minimize
from instep.schedules import NesterovMomentum
from instep.transforms import project, total_variation

SIZE, ANGLES, NOISE = 48, 30, 0.02

#: Those that are counted have come this near, as a share of the way from the start.
NEAR = 1e-6

#: Lines, in the order of the methods: told apart without colours.
DASHES = ("-", "--", ":", "-.", (0, (6, 1.5)))

#: Steps of L-BFGS after which an image is drawn; and the penalty of the last image, and its steps.
SHOWN, VARIATION, STEPS = (10, 50), 3.0, 50


class Projector:
    """Sums along rays: each pixel falls on a detector, between two bins, which share it linearly.

    Parameters
    ----------
    xp
        The array library: NumPy or CuPy.
    size, angles
        Pixels on a side of the image, and angles from 0 to 180 degrees.
    """

    def __init__(self, xp, size, angles):
        self.xp, self.shape, count = xp, (size, size), math.ceil(size * math.sqrt(2)) + 2
        axis = np.arange(size) - (size - 1) / 2
        angle = np.linspace(0, np.pi, angles, endpoint=False)[:, None]
        x, y = np.tile(axis, size), np.repeat(axis, size)
        place = x * np.cos(angle) + y * np.sin(angle) + (count - 1) / 2
        left = np.floor(place)
        first = left.astype(int) + count * np.arange(angles)[:, None]
        # Axes: angle, side of the pixel, pixel.
        self.bins = xp.asarray(np.stack([first, first + 1], axis=1))
        self.shares = xp.asarray(np.stack([1 - (place - left), place - left], axis=1))
        self.count = angles * count

    def forward(self, image):
        """Return the sums in all bins, at all angles."""
        spread = self.shares * image.ravel()
        return self.xp.bincount(self.bins.ravel(), spread.ravel(), self.count)

    def back(self, sums):
        """Return the image in which each pixel has what its bins have: the adjoint."""
        return (self.shares * sums[self.bins]).sum(axis=(0, 1)).reshape(self.shape)

    def largest_curvature(self):
        """Return the largest eigenvalue of `back` after `forward`, by power iteration."""
        image = self.xp.ones(self.shape)
        for _ in range(30):
            image = self.back(self.forward(image / self.xp.linalg.norm(image)))
        return float(self.xp.linalg.norm(image))


class Misfit:
    """Half of the sum of squares of what the projections of an image miss, and its gradient."""

    def __init__(self, projector, measured):
        self.projector, self.measured, self.evaluations = projector, measured, 0

    def __call__(self, image):
        self.evaluations += 1
        missed = self.projector.forward(image) - self.measured
        return 0.5 * (missed**2).sum(), self.projector.back(missed)


def on_host(x):
    """Return an array as one of NumPy."""
    return x.get() if hasattr(x, "get") else x


def phantom(size):
    """Return an image: an ellipse with one more in it that is thin, and one that is dense."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
    image = ((x / 0.8) ** 2 + (y / 0.9) ** 2 < 1) * 1.0
    image -= (((x - 0.2) / 0.25) ** 2 + ((y + 0.1) / 0.4) ** 2 < 1) * 0.8
    image += (((x + 0.3) / 0.2) ** 2 + ((y - 0.3) / 0.2) ** 2 < 1) * 0.5
    return np.maximum(image, 0)


def problem(xp=np, size=SIZE, angles=ANGLES):
    """Return the misfit to projections with noise, whose seed is fixed."""
    projector = Projector(xp, size, angles)
    exact = projector.forward(xp.asarray(phantom(size)))
    noise = np.random.default_rng(0).standard_normal(len(exact))
    return Misfit(projector, exact + NOISE * float(exact.max()) * xp.asarray(noise))


def methods(curvature):
    """Return the methods by name. A rate of 1 over the largest curvature is the largest safe one.

    FISTA finds its rate itself, by a second evaluation in each step.
    """
    rate = 1 / curvature
    return {
        "LBFGS": LBFGS(lower=0.0),
        "FISTA": FISTA(1.0, project(lower=0.0)),
        "Nesterov": chain(Nesterov(lr=rate, momentum=NesterovMomentum()), project(lower=0.0)),
        "Momentum 0.9": chain(Momentum(lr=rate, momentum=0.9), project(lower=0.0)),
    }


def descend(misfit, method, steps):
    """Return evaluations and values on the way, and the images by numbers of steps."""
    images, start = {}, misfit.projector.xp.zeros(misfit.projector.shape)

    def keep(now):
        if now.nit in SHOWN:
            images[now.nit] = now.x.copy()

    result = minimize(misfit, start, method, steps=steps, callback=keep)
    images[result.nit] = result.x
    return [(record.evaluations, record.value) for record in result.history], images


def descend_with_scipy(steps):
    """Return the same of SciPy's L-BFGS-B; None where it is not installed."""
    try:
        optimize = importlib.import_module("scipy.optimize")
    except ModuleNotFoundError:
        return None
    misfit = problem()

    def flat(x):
        value, gradient = misfit(x.reshape(misfit.projector.shape))
        return value, gradient.ravel()

    start = np.zeros(math.prod(misfit.projector.shape))
    way = [(1, float(flat(start)[0]))]
    misfit.evaluations = 0
    optimize.minimize(
        flat,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(start),
        options={"maxiter": steps, "maxfun": 10 * steps, "ftol": 0.0, "gtol": 0.0},
        callback=lambda intermediate_result: way.append(
            (misfit.evaluations, float(intermediate_result.fun))
        ),
    )
    return way


def heights(way, lowest):
    """Return evaluations, and how high the values are above the lowest, of that at the start."""
    start = way[0][1]
    return [(n, (value - lowest) / (start - lowest)) for n, value in way]


def table(ways, lowest):
    """Return a table of how many steps and evaluations the methods take."""
    lines = [f"| method | steps to {NEAR:g} | evaluations | in the end |", "|---|---|---|---|"]
    for name, way in ways.items():
        shares = heights(way, lowest)
        arrived = (f"{i:,} | {n:,}" for i, (n, share) in enumerate(shares) if share <= NEAR)
        missing = f"more than {len(way) - 1:,} | more than {way[-1][0]:,}"
        end = min(share for _, share in shares)
        lines.append(f"| {name} | {next(arrived, missing)} | {end:.0e} |")
    return "\n".join(lines)


def draw(ways, lowest, images, output):
    """Draw the values over the evaluations, and the images; in dashes that print in grey, too."""
    try:
        matplotlib = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError:
        raise SystemExit(
            "tomography: --output draws with matplotlib, which is not installed; "
            "pip install matplotlib, or leave it out"
        ) from None
    figure = matplotlib.Figure(figsize=(9.6, 6.2), layout="constrained", dpi=110)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.5, 1])
    axes = upper.subplots()
    looks = zip(DASHES, ("right", "left", "left", "left", "left"), strict=True)
    last = max(way[-1][0] for way in ways.values())
    for (name, way), (dash, side) in zip(ways.items(), looks, strict=False):
        shares = [(n, share) for n, share in heights(way, lowest) if share > NEAR / 30]
        axes.semilogy(*zip(*shares, strict=True), linestyle=dash, color="0.1", linewidth=1.2)
        beside = (5, 0) if side == "left" else (-5, -2)
        axes.annotate(
            name, shares[-1], beside, textcoords="offset points", ha=side, va="center", fontsize=9
        )
    axes.axhline(NEAR, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlabel="evaluations", ylabel="value above the lowest,\nof that at the start")
    axes.set_xlim(0, 1.12 * last)
    axes.spines[["top", "right"]].set_visible(False)
    true = phantom(SIZE)
    shown = {"the object": true, **images}
    for axes, (title, image) in zip(lower.subplots(1, len(shown)), shown.items(), strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1.5)
        error = np.linalg.norm(image - true) / np.linalg.norm(true)
        axes.set_title(title if image is true else f"{title}\nerror {error:.2f}", fontsize=9)
        axes.set_axis_off()
    figure.savefig(output)


def main(arguments=None):
    """Compare the methods."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--backend", choices=["numpy", "cupy"], default="numpy")
    parser.add_argument("--steps", type=int, default=1500, help="of each method; 1500")
    parser.add_argument("--output", help="a file to draw into, such as tomography.png")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    try:
        xp = importlib.import_module(options.backend)
    except ImportError as missing:
        parser.error(f"--backend {options.backend} needs that library: {missing}")

    found = {
        name: descend(problem(xp), method, options.steps)
        for name, method in methods(problem(xp).projector.largest_curvature()).items()
    }
    ways = {name: way for name, (way, _) in found.items()}
    of_scipy = descend_with_scipy(options.steps)
    if of_scipy is not None:
        ways["SciPy's L-BFGS-B"] = of_scipy
    lowest = min(value for way in ways.values() for _, value in way)
    print(table(ways, lowest))
    print(f"\nHeights are above the lowest value that a method has found, {lowest:.6g}.")
    if options.output:
        images = {f"LBFGS, {n} steps": x for n, x in found["LBFGS"][1].items()}
        smooth = FISTA(1.0, [total_variation(VARIATION), project(lower=0.0)])
        images[f"total variation, {STEPS} steps"] = descend(problem(xp), smooth, STEPS)[1][STEPS]
        draw(ways, lowest, {name: on_host(x) for name, x in images.items()}, options.output)


if __name__ == "__main__":
    sys.exit(main())
