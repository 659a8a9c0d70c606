"""The documentation speaks of everything that is public."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import instep
from instep import elsewhere, transforms

DOCS = Path(__file__).parent.parent / "docs"
REFERENCE = "".join(
    page.read_text() for page in [DOCS / "api.md", *sorted((DOCS / "optimizers").glob("*.md"))]
)
PUBLIC = [f"instep.{name}" for name in instep.__all__ if name != "__version__"]
PUBLIC += [f"instep.transforms.{name}" for name in transforms.__all__]


#: Names of other libraries, which say what is written here.
ABSENT = {name for name, _ in elsewhere.absent_attributes()}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_in_the_reference(name):
    assert REFERENCE.count(f":: {name}\n") == 1


#: Classes of the reference, with what stands behind `:members:`; None without it.
CLASSES = [
    (name, re.search(r" :members:(.*)", options))
    for name, options in re.findall(
        r"^\.\. autoclass:: (\S+)\n((?:   :.*\n)*)", REFERENCE, re.MULTILINE
    )
]


@pytest.mark.parametrize(("name", "members"), CLASSES, ids=[name for name, _ in CLASSES])
def test_what_a_class_adds_to_those_it_comes_from_is_in_the_reference(name, members):
    module, _, attribute = name.rpartition(".")
    cls = getattr(importlib.import_module(module), attribute)
    inherited = {
        name for base in cls.__mro__[1:] for name in (*vars(base), *inspect.get_annotations(base))
    }
    added = {
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and name not in (*inherited, *ABSENT)
        and (inspect.isroutine(value) or isinstance(value, property))
    }
    everything = members is not None and not members[1].strip()
    assert everything or added == set(re.findall(r"\w+", members[1] if members else ""))


def test_every_public_member_of_an_optimizer_is_in_the_reference():
    """Those for users apart from those for who writes a rule; fields are in the class itself."""
    shown = set(re.findall(r"^\.\. auto\w+:: instep\.Optimizer\.(\w+)$", REFERENCE, re.MULTILINE))
    fields = set(inspect.signature(instep.Optimizer).parameters)
    members = {name for name in dir(instep.Optimizer) if not name.startswith("_")} - ABSENT
    in_the_class = {"update", "explain"}
    assert shown | in_the_class == (members | {"rule"}) - fields  # each rule defines that itself


@pytest.mark.parametrize("name", ["compound.Compound", "composition.Chain", "partitions.Partition"])
def test_what_is_made_of_rules_is_in_the_reference(name):
    assert f"autoclass:: instep.{name}\n" in REFERENCE


@pytest.mark.parametrize("name", instep.optimizers.__all__)
def test_every_optimizer_is_in_the_table_of_optimizers(name):
    assert f"`~instep.{name}`" in (DOCS / "optimizers.md").read_text()


@pytest.mark.parametrize("name", transforms.__all__)
def test_every_transform_is_in_the_table_of_transforms(name):
    assert f"`~instep.transforms.{name}`" in (DOCS / "composing.md").read_text()


def test_the_code_that_is_shown_is_what_is_emitted():
    (shown,) = re.findall(r"```c\+\+\n(.*?)```", (DOCS / "cuda.md").read_text(), re.DOTALL)
    golden = Path(__file__).parent / "cuda" / "golden" / "Adam_float32.cu"
    assert shown in golden.read_text()
