"""Signatures are read: by `help`, in notebooks, and by those who look up a name."""

import dataclasses
import inspect
import pydoc
import typing

import pytest

import instep
from instep import Optimizer, Transform, schedules, transforms
from instep.hyperparameters import Domain, NonNegative

CLASSES = [
    cls
    for module in (instep, transforms, schedules)
    for cls in (getattr(module, name) for name in module.__all__)
    if dataclasses.is_dataclass(cls)
]
#: What belongs to the machinery.
NOISE = ("Annotated", "Domain", "factory", "typing.", "collections.", "instep.", "<", "~")


def test_the_signature_of_an_optimizer_has_names_types_and_defaults():
    assert str(inspect.signature(instep.Adam)) == (
        "(lr: float | Schedule | RealArray = 0.001, beta1: float | Schedule | RealArray = 0.9, "
        "beta2: float | Schedule | RealArray = 0.999, eps: float | Schedule | RealArray = 1e-08, "
        "amsgrad: bool = False, form: Literal['epsilon', 'epsilon_hat'] = 'epsilon', *, "
        "engine: Literal['auto', 'native', 'blocked', 'cuda', 'array_api'] = 'auto', "
        "threads: int | None = None, overrides: Overrides = {}, frozen: Selectors = (), "
        "complex: Literal['modulus', 'pairs'] = 'modulus', "
        "rounding: Literal['nearest', 'stochastic'] | None = None, master: bool = False, "
        "state_dtype: Literal['float32', 'bfloat16', 'float8'] | None = None, "
        "min_float8_size: int = 4096, seed: int = 0)"
    )


def test_the_signatures_of_transforms_schedules_and_methods_are_as_plain():
    found = inspect.signature(transforms.clip_by_norm), inspect.signature(schedules.Cosine)
    assert str(found[0]) == "(max_norm: float | Schedule | RealArray = 1.0)"
    assert str(found[1]) == "(start: float, steps: int, end: float = 0.0, power: float = 1.0)"
    assert "line_search: LineSearch = StrongWolfe(" in str(inspect.signature(instep.LBFGS))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_no_signature_shows_the_machinery(cls):
    signature = inspect.signature(cls)
    assert not [word for word in NOISE if word in str(signature)]
    assert inspect.signature(cls.__init__).parameters.keys() == {"self", *signature.parameters}
    for field in dataclasses.fields(cls):
        if field.init:
            parameter = signature.parameters[field.name]
            kind = parameter.KEYWORD_ONLY if field.kw_only else parameter.POSITIONAL_OR_KEYWORD
            assert parameter.kind is kind
            if field.default is not dataclasses.MISSING:
                assert parameter.default == field.default


@pytest.mark.parametrize("function", [instep.chain, instep.partition])
def test_functions_that_make_optimizers_have_the_settings_of_one(function):
    settings = {field.name for field in dataclasses.fields(Optimizer)}
    assert settings <= inspect.signature(function).parameters.keys()
    assert not [word for word in NOISE if word in str(inspect.signature(function))]


def test_help_is_as_plain():
    shown = pydoc.plain(pydoc.render_doc(instep.Adam))
    assert "lr: float | Schedule | RealArray = 0.001" in shown
    assert "<factory>" not in shown


def test_annotations_keep_the_domains():
    hints = typing.get_type_hints(instep.Adam, include_extras=True)
    assert hints["lr"] == NonNegative
    assert Domain(lower=0.0) in hints["lr"].__metadata__


def test_a_rule_of_ones_own_has_such_a_signature_too():
    class Mine(Transform):
        stage = "gradient"

        strength: NonNegative = 0.5
        later: "float | None" = 1.0

        @staticmethod
        def rule(xp, w, g, s, h):
            return h.strength * g, {}

    class Local(Mine):
        strength: "Nowhere" = 0.5  # noqa: F821  (as of what only a type checker imports)

    class Written(Mine):
        def __init__(self, twice):
            super().__init__(strength=2 * twice)

    shown = "(strength: float | Schedule | RealArray = 0.5, later: float | None = 1.0)"
    assert str(inspect.signature(Mine)) == shown
    assert "(strength: Nowhere = 0.5, later: " in str(inspect.signature(Local))
    assert Local().strength == 0.5
    assert str(inspect.signature(Written)) == "(twice)"
    assert Written(2.0).strength == 4.0
