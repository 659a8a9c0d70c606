"""The documentation speaks of everything that is public."""

from pathlib import Path

import pytest

import instep
from instep import transforms

DOCS = Path(__file__).parent.parent / "docs"
PUBLIC = [f"instep.{name}" for name in instep.__all__ if name != "__version__"]
PUBLIC += [f"instep.transforms.{name}" for name in transforms.__all__]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_in_the_reference(name):
    assert f":: {name}\n" in (DOCS / "api.md").read_text()


@pytest.mark.parametrize("name", instep.optimizers.__all__)
def test_every_optimizer_is_in_the_table_of_optimizers(name):
    assert f"`~instep.{name}`" in (DOCS / "optimizers.md").read_text()


@pytest.mark.parametrize("name", transforms.__all__)
def test_every_transform_is_in_the_table_of_transforms(name):
    assert f"`~instep.transforms.{name}`" in (DOCS / "composing.md").read_text()
