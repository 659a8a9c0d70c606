"""Draws the figures of experiments.md anew, in few colours so that the repository stays small.

python docs/draw_figures.py
"""

import tempfile
from pathlib import Path

from PIL import Image

from instep.cli import main

FIGURES = Path(__file__).parent / "figures"
WIDTH, COLOURS = 1000, 64

with tempfile.TemporaryDirectory() as folder:
    if main(["compare", "--out", folder]) != 0:
        raise SystemExit(1)
    FIGURES.mkdir(exist_ok=True)
    for file in sorted(Path(folder).glob("*.png")):
        with Image.open(file) as drawn:
            height = round(drawn.height * WIDTH / drawn.width)
            small = drawn.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
        small.quantize(COLOURS, dither=Image.Dither.NONE).save(FIGURES / file.name, optimize=True)
