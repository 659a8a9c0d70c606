"""Draws the figures of experiments.md anew, in few colours so that the repository stays small.

python docs/draw_figures.py
"""

import tempfile
from pathlib import Path

from PIL import Image

from instep.commands.cli import main

FIGURES = Path(__file__).parent / "figures"
WIDTH = 1000

with tempfile.TemporaryDirectory() as folder:
    if main(["compare", "--out", folder]) != 0:
        raise SystemExit(1)
    FIGURES.mkdir(exist_ok=True)
    for file in sorted(Path(folder).glob("*.png")):
        with Image.open(file) as drawn:
            height = round(drawn.height * WIDTH / drawn.width)
            small = drawn.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
        # An octree keeps the colours of thin lines, which a median cut gives up for the ground.
        few = small.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(FIGURES / file.name, optimize=True)
