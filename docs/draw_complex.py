"""Draws the figure of complex.md: the paths of one complex number under both meanings.

python docs/draw_complex.py
"""

from typing import Any

import numpy as np
from themes import save

from instep import Adam, Lion, RMSProp, Rprop
from instep.commands.compare.style import canvas, columns, theme

STEPS = 40

#: Where the gradient of abs(z)**2 / 2, which is z, leads from. The other starts are turned by 30
#: degrees each.
START = 3 + 1j
TURNS = np.exp(1j * np.pi / 6 * np.arange(4))

RULES = {
    "Adam": lambda **s: Adam(lr=0.15, **s),
    "RMSProp": lambda **s: RMSProp(lr=0.08, **s),
    "Lion": lambda **s: Lion(lr=0.15, **s),
    "Rprop": lambda **s: Rprop(lr=0.05, **s),
}


def path(make, start: complex, meaning: str) -> np.ndarray:
    """Return the numbers that an optimizer comes to, one after the other."""
    z, optimizer = np.array([start]), make(complex=meaning)
    found = [start]
    for _ in range(STEPS):
        optimizer.update(z, z.copy())
        found.append(z[0])
    return np.array(found)


def draw() -> Any:
    """Draw a row for each meaning, or a column where there is no place for four."""
    across = columns(len(RULES)) > 1
    with canvas(*((10.5, 5.6) if across else (5.6, 10.5))) as figure:
        shape = (2, len(RULES)) if across else (len(RULES), 2)
        grid = figure.subplots(*shape, sharex=True, sharey=True)
        for panels, meaning in zip(grid if across else grid.T, ("modulus", "pairs"), strict=True):
            for axes, (name, make) in zip(panels, RULES.items(), strict=True):
                axes.set_title(f'{name}, "{meaning}"', fontsize=9)
                axes.set_aspect("equal")
                axes.axhline(0, color=theme().rule, linewidth=0.6)
                axes.axvline(0, color=theme().rule, linewidth=0.6)
                if (name, meaning) == ("Rprop", "modulus"):
                    axes.text(
                        1.0, 1.7, "has no meaning", ha="center", fontsize=8, color=theme().faint
                    )
                    continue
                for turn in TURNS:
                    z = path(make, START * turn, meaning)
                    axes.plot(z.real, z.imag, ".-", markersize=2.5, linewidth=0.8)
                    axes.plot(z.real[:1], z.imag[:1], "o", color=theme().faint, markersize=3)
        for axes in grid[-1]:
            axes.set_xlabel("Re z", fontsize=8)
        for axes in grid[:, 0]:
            axes.set_ylabel("Im z", fontsize=8)
    return figure


if __name__ == "__main__":
    save("complex_paths", draw, width=1155, colours=64)
