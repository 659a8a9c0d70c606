"""The worked examples of the documentation, as modules."""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "docs" / "examples"


def load(name):
    """Return an example as a module, which is not found by that name afterwards."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
