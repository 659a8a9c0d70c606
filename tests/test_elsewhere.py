"""Names of other libraries, and misspelt ones, are errors that say what to write here."""

import copy
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

import instep
from instep import (
    SGD,
    AdaDelta,
    Adafactor,
    Adam,
    Adan,
    Momentum,
    Optimizer,
    RMSProp,
    Rprop,
    chain,
    elsewhere,
    partition,
    schedules,
    transforms,
)
from instep.transforms import average, clip_by_norm, clip_by_value, weight_decay

NAMES = [
    (Adam, "betas", "beta1=0.9, beta2=0.999 are two numbers here"),
    (Adan, "betas", "beta1=0.98, beta2=0.92, beta3=0.99 are three numbers here"),
    (Adafactor, "eps", "eps1=1e-30, eps2=0.001 are two numbers here"),
    (Rprop, "etas", "shrink=0.5, grow=1.2 are two numbers here"),
    (Adam, "learning_rate", "it is called lr here"),
    (Adam, "LR", "it is called lr here"),
    (Adam, "alpha", "it is called lr here"),
    (Adam, "epsilon", "it is called eps here"),
    (Adam, "momentum", "it is called beta1 here"),
    (Adam, "b2", "it is called beta2 here"),
    (RMSProp, "alpha", "it is called decay here"),
    (RMSProp, "rho", "it is called decay here"),
    (AdaDelta, "decay_rate", "it is called rho here"),
    (Momentum, "beta", "it is called momentum here"),
    (Adam, "thread", "did you mean threads?"),
    (Adam, "lrr", "did you mean lr?"),
    (SGD, "momentum", "Momentum has it"),
    (SGD, "nesterov", "Nesterov has it"),
    (Adam, "weight_decay", "put weight_decay(rate) before the optimizer in a chain"),
    (Adam, "maximize", "put maximize() before the optimizer in a chain"),
    (Adam, "foreach", "leave it out"),
    (Adam, "fused", "leave it out"),
    (Adam, "params", "give the parameters to update(params, grads)"),
    (clip_by_norm, "clip_norm", "it is called max_norm here"),
    (clip_by_value, "clip_value", "it is called limit here"),
    (weight_decay, "weight_decay", "it is called rate here"),
    (average, "ema_decay", "it is called decay here"),
    (Adam, "warmth", "it has lr, beta1, beta2, eps, amsgrad, form"),
]


@pytest.mark.parametrize(("rule", "name", "remedy"), NAMES)
def test_a_name_of_another_library_is_refused_with_the_one_that_is_meant(rule, name, remedy):
    text = f"^{rule.__name__} has no hyperparameter {name!r}; {re.escape(remedy)}"
    with pytest.raises(TypeError, match=text):
        rule(**{name: 0.5})
    one = rule()
    before = repr(one)
    with pytest.raises(AttributeError, match=text):
        setattr(one, name, 0.5)
    assert repr(one) == before


def rules():
    modules = instep, transforms
    found = [getattr(module, name) for module in modules for name in module.__all__]
    return [rule for rule in found if hasattr(rule, "hyperparameters")]


def test_every_name_that_is_told_is_one_of_the_rule():
    spellings = {word for _, others in elsewhere.CALLED for word in others.split()}
    told = 0
    for rule in rules():
        own = {entry.name for entry in rule.hyperparameters}
        for word in spellings - own:
            text = elsewhere.remedy(word, dict.fromkeys(own), ())
            if text.startswith("it is called"):
                told += 1
                assert text.split()[3] in own
    assert told > 100


def test_remedies_name_what_there_is():
    known = {*instep.__all__, *transforms.__all__, *schedules.__all__, "update"}
    words = [text for _, text in elsewhere.REMEDIES]
    called = {name for text in words for name in re.findall(r"(\w+)\(", text)}
    assert called <= known
    assert {"maximize", "accumulate", "Momentum", "update"} <= called
    meant = {*elsewhere.NAMES.values()}
    assert meant <= known


@pytest.mark.parametrize(
    "given",
    [
        *([np.ones(2)], (np.ones(2),), {"w": np.ones(2)}, [{"params": []}]),
        *(iter([np.ones(2)]), {"w": 1.0}.values()),
    ],
    ids=["list", "tuple", "dict", "groups", "generator", "values"],
)
def test_parameters_in_the_place_of_the_first_hyperparameter_are_refused(given):
    message = r"^Adam: the first argument is lr, got parameters; give these to update\(params"
    with pytest.raises(TypeError, match=message):
        Adam(given)
    with pytest.raises(TypeError, match=message):
        Adam(given, lr=0.1)


def test_an_array_is_a_hyperparameter_unless_there_is_one():
    assert Adam(np.full(3, 0.5)).lr.shape == (3,)
    with pytest.raises(TypeError, match="give these to update"):
        Adam(np.full(3, 0.5), lr=0.1)
    with pytest.raises(TypeError, match=r"Adam\.__init__\(\) got multiple values"):
        Adam(0.5, lr=0.1)


MADE = [Adam, lambda: chain(clip_by_norm(), Adam()), lambda: partition({"*": Adam()})]


@pytest.mark.parametrize("make", MADE, ids=["Adam", "chain", "partition"])
@pytest.mark.parametrize("name", elsewhere.ATTRIBUTES)
def test_methods_of_other_libraries_say_what_to_call(make, name):
    one = make()
    text = f"^{type(one).__name__} has no attribute '{name}'; "
    with pytest.raises(AttributeError, match=text + re.escape(elsewhere.ATTRIBUTES[name])):
        getattr(one, name)
    assert not hasattr(one, name)
    assert name not in dir(one)


def test_other_attributes_are_missing_as_ever():
    with pytest.raises(AttributeError, match="'Adam' object has no attribute 'warmth'"):
        Adam().warmth  # noqa: B018  (it raises)
    with pytest.raises(AttributeError, match=r"Chain has no attribute 'warmth'$"):
        chain(Adam()).warmth  # noqa: B018
    assert chain(Adam(lr=0.5)).lr == 0.5


def test_a_rule_may_use_these_names_itself():
    class Mine(Optimizer):
        step: float
        betas: float = 0.5

        state = "mine"

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.step * h.betas * g, {}

        def zero_grad(self):
            return "mine, too"

    class Steps:
        def minimize(self):
            return type(self).__name__

    class Mixed(SGD, Steps):
        pass

    optimizer = Mine(step=2.0)
    for one in (optimizer, copy.copy(optimizer), copy.deepcopy(optimizer), chain(optimizer).main):
        assert (one.step, one.betas, one.state, one.zero_grad()) == (2.0, 0.5, "mine", "mine, too")
    assert optimizer.update(np.ones(1), np.ones(1)) == 0.0
    assert Mixed().minimize() == "Mixed"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'step'"):
        Mine()


def test_copies_and_pickles_are_made_without_arguments():
    for make in MADE:
        one = make()
        for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert repr(other) == repr(one)


@pytest.mark.parametrize(
    ("module", "name", "meant"),
    [
        (instep, "RMSprop", "instep.RMSProp"),
        (instep, "Adagrad", "instep.AdaGrad"),
        (instep, "Adadelta", "instep.AdaDelta"),
        (instep, "adamw", "instep.AdamW"),
        (instep, "Nadam", "instep.NAdam"),
        (instep, "gradient_descent", "instep.SGD"),
        (instep, "Momentun", "instep.Momentum"),
        (instep, "clip_by_norm", "instep.transforms.clip_by_norm"),
        (instep, "Cosine", "instep.schedules.Cosine"),
        (instep, "CosineAnnealingLR", "instep.schedules.Cosine"),
        (transforms, "clip_by_norms", "instep.transforms.clip_by_norm"),
        (schedules, "StepLR", "instep.schedules.StepDecay"),
    ],
)
def test_a_module_says_which_name_is_meant(module, name, meant):
    text = f"^module '{module.__name__}' has no attribute '{name}'; did you mean {meant}\\?$"
    with pytest.raises(AttributeError, match=text):
        getattr(module, name)


def test_a_module_says_what_to_call_and_what_to_import():
    with pytest.raises(AttributeError, match=r"'apply_updates'; update\(params, grads\) changes"):
        instep.apply_updates  # noqa: B018  (it raises)
    with pytest.raises(AttributeError, match=r"module 'instep' has no attribute 'zebra'$"):
        instep.zebra  # noqa: B018
    program = "import instep\ntry: instep.bridges\nexcept AttributeError as error: print(error)"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "import instep.bridges.torch" in found.stdout


def test_namespaces_list_what_is_public_and_a_star_brings_it():
    for module in (instep, transforms, schedules):
        assert dir(module) == sorted(module.__all__)
        space = {}
        exec(f"from {module.__name__} import *", space)
        assert {*space} - {"__builtins__"} == {*module.__all__}
    assert {"schedules", "transforms"} <= {*instep.__all__}
    assert not {*transforms.__all__, *schedules.__all__} & {*instep.__all__}


def test_numbers_that_are_one_tuple_elsewhere_are_told_as_they_were_given():
    told = r"beta1=0\.8, beta2=0\.99 are two numbers here$"
    with pytest.raises(TypeError, match=told):
        Adam(betas=(0.8, 0.99))
    with pytest.raises(AttributeError, match=told):
        Adam().betas = [0.8, 0.99]
    with pytest.raises(AttributeError, match=told):
        chain(Adam()).betas = (0.8, 0.99)
    with pytest.raises(TypeError, match=r"beta1=0\.8, beta2=0\.999 are two"):
        Adam(betas=(0.8,))


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("from instep import RMSprop", "did you mean instep.RMSProp?"),
        ("from instep import Sharded", "it is in instep.distributed, which needs mpi4py"),
        ("from instep.schedules import StepLR", "did you mean instep.schedules.StepDecay?"),
        ("from instep import Adam, weight_decay", "did you mean instep.transforms.weight_decay?"),
    ],
)
def test_a_name_that_is_imported_is_told_of_too(line, remedy):
    with pytest.raises(ImportError, match=f"^cannot import name .*; {re.escape(remedy)}$"):
        exec(line, {})
    with pytest.raises(ImportError, match=r"^cannot import name 'warmth' from 'instep' \(.*\)$"):
        exec("from instep import warmth", {})
    assert not hasattr(instep, "RMSprop")


@pytest.mark.parametrize("code", ["instep.RMSprop", "instep.Adam().state", "instep.adagrad"])
def test_python_adds_no_suggestion_of_its_own(code):
    command = [sys.executable, "-c", f"import instep; {code}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Did you mean" not in found.stderr
    assert found.stderr.rstrip().splitlines()[-1].startswith("AttributeError: ")


def test_help_describes_settings_and_what_is_not_here():
    import pydoc

    text = pydoc.render_doc(Adam, renderer=pydoc.plaintext)
    assert "engine, threads, overrides, frozen, complex, rounding, master, state_dtype" in text
    assert "As for `Optimizer`." in text
    assert "Not here: update(params, grads) takes a step." in text


def test_dir_of_an_optimizer_lists_what_users_call():
    found = {name for name in dir(Adam()) if not name.startswith("_")}
    assert {"update", "explain", "readings", "save", "lr", "beta1", "engine", "t"} <= found
    assert not {"slots", "rule", "scopes", "moving", "step", "zero_grad"} & found
    assert len(found) < 40
