# ruff: noqa: SLF001  (it looks inside on purpose)
"""What the class of a rule declares is checked when it is made, or when a rule is constructed."""

import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, Optimizer, chain
from instep.composition import Chain
from instep.declarations import RESERVED
from instep.elsewhere import ATTRIBUTES
from instep.graph.trace import Values
from instep.partitions import Partition
from instep.rule import Form, Rule
from instep.transform import Transform


def declare(base=Optimizer, annotations=None, **attributes):
    """Return a class of rules with these attributes."""
    attributes.setdefault("rule", staticmethod(lambda xp, w, g, s, h: (w - g, {})))
    if base is Transform:
        attributes.setdefault("stage", "gradient")
    return type("Declared", (base,), {"__annotations__": annotations or {}, **attributes})


#: What an optimizer is set to beside its hyperparameters, and another default for each.
SETTINGS = {
    "engine": "blocked",
    "threads": 1,
    "overrides": None,
    "frozen": ("a",),
    "complex": "pairs",
    "rounding": "stochastic",
    "master": True,
    "state_dtype": "bfloat16",
    "min_float8_size": 1,
    "seed": 1,
}


def public(*classes):
    """Return the public names of the attributes of classes."""
    names = {name for cls in classes for name in {*dir(cls), *cls.__annotations__}}
    return {name for name in names if not name.startswith("_")}


def test_the_reserved_names_are_those_of_the_base_classes():
    elsewhere = {name for name in ATTRIBUTES if not hasattr(Optimizer, name)}
    found = public(Rule, Optimizer, Transform, Chain, Partition, Values)
    assert found - elsewhere == RESERVED


@pytest.mark.parametrize("base", [Optimizer, Transform, SGD, Adam])
@pytest.mark.parametrize("name", sorted(RESERVED - set(SETTINGS)))
def test_no_number_or_slot_has_the_name_of_an_attribute_of_a_base_class(name, base):
    with pytest.raises(TypeError, match=f"Declared: no hyperparameter can be called '{name}'"):
        declare(base, {name: float}, **{name: 0.1})
    with pytest.raises(TypeError, match=f"Declared: no hyperparameter can be called '{name}'"):
        declare(base, {name: bool}, **{name: False})
    with pytest.raises(TypeError, match=f"Declared: no slot can be called '{name}'.*another name"):
        declare(base, slots=(name,))
    with pytest.raises(TypeError, match=f"Declared: no scalar can be called '{name}'"):
        declare(base, scalar_slots={name: 0.0})


@pytest.mark.parametrize(
    ("lasting", "message"),
    [
        (("m",), "'m' is one of the lasting_numbers, and not one of the tree_numbers n; name it"),
        (("v",), "'v' is one of the lasting_numbers, and not one of the tree_numbers n; name it"),
        (("n", "n"), "lasting_numbers has 'n' twice"),
        ("n", "lasting_numbers is the string 'n', not a tuple of names; write"),
    ],
    ids=str,
)
def test_numbers_that_last_are_some_of_the_tree(lasting, message):
    numbers = {"tensor_numbers": {"v": 0.0}, "tree_numbers": {"n": 0.0}}
    with pytest.raises(TypeError, match=f"Declared: {message}"):
        declare(slots=("m",), lasting_numbers=lasting, **numbers)
    assert declare(lasting_numbers=("n",), **numbers)().lasting_numbers == ("n",)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_may_have_another_default_in_a_subclass_and_is_no_slot(name):
    default = SETTINGS[name]
    if name != "overrides":
        assert getattr(declare(annotations={name: object}, **{name: default})(), name) == default
    with pytest.raises(TypeError, match=f"Declared: no slot can be called '{name}'"):
        declare(slots=(name,))
    with pytest.raises(TypeError, match=f"Declared: no hyperparameter can be called '{name}'"):
        declare(Transform, {name: float}, **{name: 0.1})


def test_slots_that_an_option_decides_name_one():
    with pytest.raises(TypeError, match="optional_slots has 'm' while 'lr' is on, which is not"):
        declare(slots=("m",), optional_slots={"m": "lr"})
    with pytest.raises(TypeError, match="optional_slots has 'm' while 'lr' is on, which is not"):
        declare(slots=("m",), optional_slots={"m": ("lr", True)})
    with pytest.raises(TypeError, match="optional_slots must be a dict of slots and the names"):
        declare(slots=("m",), optional_slots="m")


@pytest.mark.parametrize("name", ["update", "save", "load", "reset", "state_dict", "explain"])
def test_a_number_in_the_place_of_a_method_is_refused_without_an_annotation_too(name):
    with pytest.raises(TypeError, match=f"Declared: '{name}' is a method of the base class, and"):
        declare(**{name: 0.1})


def forgetful(xp, w, g, s, h):
    return w - g, {}


def lacking(xp, w, g, s):
    return w - g, {}


@pytest.mark.parametrize(
    ("rule", "remedy"),
    [
        (forgetful, r"is defined as rule\(xp, w, g, s, h\); put @staticmethod before it"),
        (lacking, r"is defined as rule\(xp, w, g, s\); change its signature"),
        (staticmethod(lacking), r"is defined as rule\(xp, w, g, s\); change its signature"),
    ],
    ids=["no @staticmethod", "no h, and no @staticmethod", "no h"],
)
def test_a_rule_that_cannot_be_called_is_refused(rule, remedy):
    message = r"Declared.rule is called as rule\(xp, w, g, s, h\), and "
    with pytest.raises(TypeError, match=message + remedy):
        declare(rule=rule)


def test_a_transform_of_the_step_is_given_the_parameter_that_is_proposed():
    with pytest.raises(
        TypeError, match=r"rule\(xp, w, new, g, s, h\), and is defined as rule\(xp, w, g"
    ):
        type("Declared", (Transform,), {"stage": "step", "rule": staticmethod(forgetful)})


@pytest.mark.parametrize("name", ["name", "parts", "main", "t", "varying"])
@pytest.mark.parametrize("value", ["mine", 0.1, ()], ids=str)
def test_what_hides_an_attribute_of_the_base_class_is_refused(name, value):
    what = f"Declared: '{name}' is an attribute of the base class, and here it is"
    with pytest.raises(TypeError, match=f"{what} .*; choose another name"):
        declare(**{name: value})


def test_methods_may_be_replaced_by_methods():
    class Told(SGD):
        def reset(self):
            super().reset()
            self._told = True

    optimizer = Told()
    optimizer.reset()
    assert optimizer._told


@pytest.mark.parametrize("name", ["name", "t", "numbers", "varying", "moving"])
def test_a_method_in_the_place_of_an_attribute_is_refused(name):
    with pytest.raises(TypeError, match=f"Declared: '{name}' is an attribute of .*<function"):
        declare(**{name: lambda self: "mine"})


@pytest.mark.parametrize("name", ["update", "save", "form_for", "scalars"])
def test_an_attribute_in_the_place_of_a_method_is_refused(name):
    with pytest.raises(TypeError, match=f"Declared: '{name}' is a method of .*<property"):
        declare(**{name: property(lambda self: "mine")})


def test_an_attribute_may_be_replaced_by_one():
    assert declare(name=property(lambda self: "Mine"))().name == "Mine"


def test_hyperparameters_have_no_leading_underscore():
    with pytest.raises(TypeError, match=r"can be called '_t', for .* underscore"):
        declare(annotations={"_t": float}, _t=0.1)


@pytest.mark.parametrize("name", [*Values.__slots__, "__class__"])
def test_nothing_is_called_as_what_a_rule_is_given_has_for_itself(name):
    said = f"'{name}', for .* underscore"
    with pytest.raises(TypeError, match=f"no hyperparameter can be called {said}"):
        declare(annotations={name: float}, **({name: 0.1} if name != "__class__" else {}))
    for what in ("tensor_numbers", "tree_numbers"):
        with pytest.raises(TypeError, match=f"no slot can be called {said}"):
            declare(**{what: {name: 0.0}})
    with pytest.raises(TypeError, match=f"no slot can be called {said}"):
        declare(slots=(name,))
    with pytest.raises(TypeError, match=f"no scalar can be called {said}"):
        declare(scalar_slots={name: 0.0})


@pytest.mark.parametrize("name", ["part", "_values", "__class__"])
def test_scalars_returns_nothing_that_hyperparameters_have_for_themselves(name):
    optimizer, w = declare(scalars=staticmethod(lambda h: {name: 1.0}))(), np.ones(2)
    with pytest.raises(TypeError, match=rf"Declared\.scalars returned .* '{name}', which `h` has"):
        optimizer.update(w, np.ones(2))
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "function", "arguments"),
    [("scalars", lambda h: {}, "h"), ("answer_rule", lambda xp, w, s, h: w, "xp, w, s, h")],
)
def test_what_else_is_static_is_refused_where_that_was_forgotten(name, function, arguments):
    called = rf"{name}\({arguments}\)"
    message = rf"Declared\.{name} is called as {called}, .* as {called}; put @staticmethod before"
    with pytest.raises(TypeError, match=message):
        declare(**{name: function})
    declare(**{name: staticmethod(function)})


@pytest.mark.parametrize(
    "name", ["t0", "t12", "u1", "h0", "sum1", "sum0", "partial1", "g_at", "new_w", "double", "NULL"]
)
@engine_runs.every_engine
def test_names_that_emitted_code_makes_up_are_as_good_as_others(name, engine):
    engine_runs.require(engine)

    def rule(xp, w, g, s, h):
        slot = getattr(s, name) + g * xp.norm(g)
        return w - slot * getattr(h, name) * slot, {name: slot}

    members = {name: 0.5, "slots": (name,), "rule": staticmethod(rule)}
    declared = declare(annotations={name: float}, **members)
    w = np.zeros(4)
    declared(engine=engine).update(w, np.ones(4))
    assert w.tolist() == [-2.0] * 4


def test_the_kind_of_a_form_is_no_hyperparameter():
    def form_for(self, shape):
        return Form(())

    with pytest.raises(TypeError, match="Declared: no hyperparameter can be called 'kind'"):
        declare(annotations={"kind": float}, kind=0.1, form_for=form_for)
    assert declare(annotations={"kind": float}, kind=0.1)().kind == 0.1


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ("velocity", r"slots is the string 'velocity', not a tuple.*write \('velocity',\)"),
        ("", "slots is the string '', not a tuple"),
        (None, "slots must be a tuple of names, got None"),
        ({"m"}, "slots must be a tuple of names, got {'m'}"),
        (("m", "m"), "slots has 'm' twice"),
        ((1,), "1 cannot be the name of a slot"),
        (("a b",), "'a b' cannot be the name of a slot"),
        (("lambda",), "'lambda' cannot be the name of a slot"),
        (("w",), "'w' cannot be the name of a slot, for it is the parameter"),
        (("g",), "'g' cannot be the name of a slot, for it is the gradient"),
    ],
)
def test_slots_are_a_tuple_of_names(slots, message):
    with pytest.raises(TypeError, match=f"Declared: {message}"):
        declare(slots=slots)
    with pytest.raises(TypeError, match=r"Declared: .*|Form: .*"):
        declare(state_slots=lambda self: slots)()
    for keywords in ({"slots": slots}, {"slots": (), "between": slots}):
        with pytest.raises(TypeError, match="Form: "):
            Form(**keywords)


def test_a_list_of_slots_is_as_good_as_a_tuple():
    class Summed(Optimizer):
        slots = ["total"]  # noqa: RUF012

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - g, {"total": s.total + g}

    optimizer, w = Summed(), np.zeros(3)
    for _ in range(3):
        optimizer.update(w, np.ones(3))
    assert optimizer.state_dict()["states"][""]["slots"]["total"].tolist() == [3.0] * 3


@pytest.mark.parametrize(
    ("scalar_slots", "message"),
    [
        ("total", "scalar_slots must be a dict of names and initial values, got 'total'"),
        (("total",), "scalar_slots must be a dict of names and initial values"),
        ({1: 0.0}, "1 cannot be the name of a scalar"),
        ({"total": "0"}, "the scalar slot 'total' must start at a number, got '0'"),
        ({"total": None}, "the scalar slot 'total' must start at a number, got None"),
        ({"total": True}, "the scalar slot 'total' must start at a number, got True"),
        ({"lr": 0.0}, "'lr' is a hyperparameter and one of the scalar_slots"),
    ],
)
def test_scalar_slots_are_a_dict_of_names_and_numbers(scalar_slots, message):
    with pytest.raises(TypeError, match=f"Declared: {message}"):
        declare(SGD, scalar_slots=scalar_slots)


@pytest.mark.parametrize("name", ["guarded", "needs_value"])
def test_whether_a_rule_is_guarded_or_needs_the_value_is_true_or_false(name):
    with pytest.raises(TypeError, match=f"Declared: the class attribute `{name}` must be True or"):
        declare(Transform, **{name: "False"})


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ({"m": "strat"}, "'m' is to start as 'strat', which is neither \"w\".*numbers t, lr"),
        ({"m": "g"}, "'m' is to start as 'g'"),
        ({"m": None}, "'m' must be a number, \"w\" .*, or the name of a hyper.*, got None"),
        ({"m": True}, "'m' must be a number"),
        ({"m": [1.0]}, "'m' must be a number"),
        ({"n": 1.0}, "'n' is not one of the slots m; check the name"),
        (None, "must return a dict of slots, got None"),
        ({"m"}, "must return a dict of slots"),
    ],
)
def test_slots_start_as_the_parameter_or_as_numbers_that_exist(initial, message):
    rule = declare(SGD, slots=("m",), initial_state=lambda self: initial)
    with pytest.raises(TypeError, match=rf"Declared\.initial_state.*{message}"):
        rule()


@pytest.mark.parametrize("chained", [False, True])
def test_slots_may_start_as_numbers_that_scalars_returns_and_not_as_others(chained):
    def make(start):
        rule = declare(
            SGD,
            slots=("m",),
            initial_state=lambda self: {"m": start},
            scalars=staticmethod(lambda h: {"half": h.lr / 2}),
            rule=staticmethod(lambda xp, w, g, s, h: (w - s.m, {"m": s.m})),
        )(lr=1.0)
        return chain(rule) if chained else rule

    for start, expected in [("half", -0.5), ("lr", -1.0), ("t", -1.0), ("w", 0.0), (3, -3.0)]:
        w = np.zeros(2)
        make(start).update(w, np.ones(2))
        assert w.tolist() == [expected] * 2
    optimizer, w = make("strat"), np.zeros(2)
    with pytest.raises(TypeError, match=r"Declared\.initial_state: 'm' is .* as 'strat'.*half"):
        optimizer.update(w, np.ones(2))
    assert optimizer.t == 0
    assert not w.any()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"whole": ("rows",)}, "whole must be a dict of shapes"),
        ({"whole": {"rows": 3}}, "the shape of 'rows' must be a tuple of integers >= 0, got 3"),
        ({"whole": {"rows": (-1,)}}, "the shape of 'rows' must be a tuple of integers"),
        ({"whole": {1: (1,)}}, "1 cannot be the name of a slot"),
        ({"kind": None}, "kind must be a string, got None"),
    ],
)
def test_a_form_has_names_and_shapes(keywords, message):
    with pytest.raises(TypeError, match=f"Form: {message}"):
        Form((), **keywords)
