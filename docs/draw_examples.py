"""Draws the figures of minimizing.md: what the examples draw, in few greys.

python docs/draw_examples.py
"""

import importlib
import sys
import tempfile
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER / "examples"))

with tempfile.TemporaryDirectory() as folder:
    for name in ("phase_retrieval", "tomography"):
        file = Path(folder) / f"{name}.png"
        if importlib.import_module(name).main(["--output", str(file)]):
            raise SystemExit(1)
        with Image.open(file) as drawn:
            drawn.convert("L").quantize(32).save(FOLDER / "figures" / file.name, optimize=True)
