"""Phase retrieval: a complex object, from diffraction patterns of overlapping parts (ptychography).

    python phase_retrieval.py                              print how far each method comes
    python phase_retrieval.py --output phase_retrieval.png draw it, too (needs matplotlib)
    python phase_retrieval.py --backend cupy               the same on a GPU

A known probe is moved over an object, and at each place a detector counts the photons of the
far field: the squared moduli of a Fourier transform. The phases of the field are lost, and the
modulus and phase of the object are to be found. It lies in an aperture, outside of which it is 0,
and it makes no light: its modulus is at most 1.

L-BFGS is also stopped half-way, saved and resumed, which has to give the same bits.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from instep import FISTA, LBFGS, Adam, chain, minimize
from instep.transforms import project_modulus, support

SIZE, WINDOW, PLACES, PHOTONS = 64, 32, 7, 50_000

#: Steps of L-BFGS after which the object is drawn.
SHOWN = (3, 6, 12, 40)


def grid(size):
    """Return the coordinates of the pixels of a square, from its centre."""
    axis = np.arange(size) - (size - 1) / 2
    return np.meshgrid(axis, axis)


def aperture():
    """Return which pixels are inside of the aperture."""
    return np.hypot(*grid(SIZE)) < 0.45 * SIZE


def specimen():
    """Return the object: a star that absorbs, and a ring that delays."""
    x, y = grid(SIZE)
    radius = np.hypot(x, y) / SIZE
    star = np.where(np.cos(9 * np.arctan2(y, x) + 0.5) > 0, 1.0, 0.4)
    ring = np.where((radius > 0.2) & (radius < 0.32), 1.2, 0.0)
    return aperture() * star * np.exp(1j * ring)


def probe():
    """Return the probe, a beam out of focus, in roots of photons."""
    square = sum(axis**2 for axis in grid(WINDOW))
    beam = np.exp((-1 / 90 + 0.04j) * square)
    return beam * np.sqrt(PHOTONS / (np.abs(beam) ** 2).sum())


def places(rng):
    """Return the corners of the windows, on a grid that is not quite even."""
    even = np.linspace(1, SIZE - WINDOW - 1, PLACES)
    corners = np.stack(np.meshgrid(even, even), axis=-1).reshape(-1, 2)
    return np.rint(corners + rng.uniform(-1, 1, corners.shape)).astype(int)


class Diffraction:
    r"""The misfit of an object :math:`O` to the counts :math:`I_j` of the detector.

    .. math:: \frac12 \sum_j \left\| |F(P\, O_j)| - \sqrt{I_j} \right\|^2

    :math:`O_j` is a window of the object, :math:`P` the probe and :math:`F` the Fourier transform.
    The root makes the noise of all counts alike (Anscombe 1948).

    Parameters
    ----------
    xp
        The array library: NumPy or CuPy.
    """

    def __init__(self, xp):
        rng = np.random.default_rng(0)
        self.xp, self.probe, self.corners = xp, xp.asarray(probe()), places(rng).tolist()
        exact = abs(self.fields(xp.asarray(specimen()))) ** 2
        self.roots = xp.asarray(np.sqrt(rng.poisson(on_host(exact))))

    def fields(self, x):
        """Return the fields on the detector, one for each window."""
        windows = [x[i : i + WINDOW, j : j + WINDOW] for i, j in self.corners]
        return self.xp.fft.fft2(self.probe * self.xp.stack(windows), norm="ortho")

    def __call__(self, x):
        """Return the misfit, and its gradient: twice the derivative by the conjugate of `x`."""
        fields = self.fields(x)
        moduli = abs(fields)
        missed = moduli - self.roots
        # A field of 0 has no phase: there the gradient is taken as 0.
        phases = fields / self.xp.where(moduli == 0, 1, moduli)
        windows = self.probe.conj() * self.xp.fft.ifft2(missed * phases, norm="ortho")
        gradient = self.xp.zeros_like(x)
        for (i, j), window in zip(self.corners, windows, strict=True):
            gradient[i : i + WINDOW, j : j + WINDOW] += window
        return 0.5 * (missed**2).sum(), gradient

    def rate(self):
        """Return 1 over the largest number of photons that a pixel of the object sees."""
        seen = np.zeros((SIZE, SIZE))
        for i, j in self.corners:
            seen[i : i + WINDOW, j : j + WINDOW] += abs(on_host(self.probe)) ** 2
        return 1 / float(seen.max())


def on_host(x):
    """Return an array as one of NumPy."""
    return x.get() if hasattr(x, "get") else x


def error(x):
    """Return the relative error of an object, whose phase as a whole cannot be known."""
    return float(np.linalg.norm(aligned(x) - specimen()) / np.linalg.norm(specimen()))


def aligned(x):
    """Return an object with the phase that is nearest to that of the specimen."""
    product = np.vdot(x, specimen())
    return x * product / abs(product) if product else x


def descend(xp, name, steps, **settings):
    """Run a method from an empty aperture on; return what `minimize` has found.

    Two constraints follow each step of Adam and FISTA: the aperture, and a modulus of at most 1.
    L-BFGS has none for complex numbers. It stays in the aperture because it starts there, and is
    given no gradient outside.
    """
    misfit, inside = Diffraction(xp), xp.asarray(aperture())
    within = support(inside), project_modulus(upper=1.0)

    def misfit_inside(x):
        value, gradient = misfit(x)
        return value, inside * gradient

    function, method = {
        # The best of the rates 0.03, 0.1, 0.2, 0.3 and 0.5. The others look for a rate themselves.
        "Adam": (misfit, chain(Adam(lr=0.3), *within)),
        "FISTA": (misfit, FISTA(4 * misfit.rate(), within)),
        "LBFGS": (misfit_inside, LBFGS()),
    }[name]
    return minimize(function, inside.astype(complex), method, steps=steps, **settings)


def resumed(xp, steps):
    """Return what L-BFGS finds when it is stopped half-way, saved and resumed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "half-way"
        descend(xp, "LBFGS", steps // 2).save(file)
        return descend(xp, "LBFGS", steps, resume=file)


def draw(results, images, output):
    """Draw the misfits over the evaluations, and the object as it comes out."""
    try:
        matplotlib = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError:
        raise SystemExit(
            "phase_retrieval: --output draws with matplotlib, which is not installed; "
            "pip install matplotlib, or leave it out"
        ) from None
    figure = matplotlib.Figure(figsize=(9.6, 7.2), layout="constrained", dpi=110)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.35])
    axes = upper.subplots()
    looks = zip(("-.", "--", "-"), ("left", "right", "right"), strict=True)
    for (name, result), (dash, side) in zip(results.items(), looks, strict=True):
        way = [(record.evaluations, record.value) for record in result.history]
        axes.loglog(*zip(*way, strict=True), dash, color="0", linewidth=1.2)
        # All end at one height: the name stands where the line is on its way down.
        middle = (way[0][1] * min(value for _, value in way) ** 3) ** 0.25
        place = next((point for point in way if point[1] <= middle), way[-1])
        beside = (5, 3) if side == "left" else (-6, -8)
        axes.annotate(name, place, beside, textcoords="offset points", ha=side, fontsize=9)
    axes.set(xlabel="evaluations", ylabel="misfit")
    axes.spines[["top", "right"]].set_visible(False)
    shown = {"the object": specimen(), **images}
    columns = lower.subplots(2, len(shown), squeeze=False).T
    for (modulus, phase), (title, x) in zip(columns, shown.items(), strict=True):
        modulus.imshow(abs(x), cmap="gray", vmin=0, vmax=1)
        phase.imshow(
            np.where(aperture(), np.angle(aligned(x)), np.nan), cmap="gray", vmin=-0.8, vmax=2
        )
        modulus.set_title(title, fontsize=9)
        modulus.set_axis_off()
        phase.set_axis_off()
    figure.savefig(output)


def main(arguments=None):
    """Compare the methods."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--backend", choices=["numpy", "cupy"], default="numpy")
    parser.add_argument("--steps", type=int, default=100, help="evaluations, about; 100")
    parser.add_argument("--output", help="a file to draw into, such as phase_retrieval.png")
    options = parser.parse_args(arguments)
    if options.steps < 2:
        parser.error(f"--steps must be at least 2, got {options.steps}")
    try:
        xp = importlib.import_module(options.backend)
    except ImportError as missing:
        parser.error(f"--backend {options.backend} needs that library: {missing}")

    images = {}

    def keep(now):
        if now.nit in SHOWN:
            images[f"LBFGS, {now.nit} steps"] = on_host(now.x).copy()

    results = {
        "Adam": descend(xp, "Adam", options.steps),
        "FISTA": descend(xp, "FISTA", options.steps // 2),  # each step evaluates twice
        "LBFGS": descend(xp, "LBFGS", options.steps, callback=keep),
    }
    print("| method | steps | evaluations | misfit | error of the object |\n|---|---|---|---|---|")
    for name, found in results.items():
        numbers = f"{found.nit} | {found.nfev} | {found.fun:,.0f} | {error(on_host(found.x)):.3f}"
        print(f"| {name} | {numbers} |")
    exact, _ = Diffraction(xp)(xp.asarray(specimen()))
    print(f"\nThe specimen itself has a misfit of {float(exact):,.0f}, for the counts are noisy.")
    again = resumed(xp, options.steps)
    is_same = on_host(again.x).tobytes() == on_host(results["LBFGS"].x).tobytes()
    print(f"LBFGS, saved half-way and resumed: {'the same bits' if is_same else 'OTHER BITS'}.")
    if options.output:
        draw(results, images, options.output)
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
