"""What other libraries and textbooks call things, and what is said to those who write it here."""

import difflib
import dis
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: A hyperparameter here, and what it is called elsewhere. The first that a rule has is meant.
CALLED = (
    ("max_norm", "clipnorm clip_norm norm max_grad_norm max_delta"),
    ("limit", "clipvalue clip_value max_delta max_value value"),
    ("rate", "weight_decay wd decay strength l2 lam"),
    ("k", "steps every_k every_k_schedule sync_period n"),
    ("decay", "decay_rate rho alpha gamma beta beta2 ema_decay ema_momentum"),
    ("rho", "decay decay_rate alpha beta beta2"),
    ("beta1", "b1 beta_1 beta momentum mu"),
    ("beta2", "b2 beta_2 decay decay_rate rho"),
    ("beta3", "b3 beta_3"),
    ("momentum", "alpha beta beta1 b1 beta_1 mu"),
    ("beta", "momentum beta1 b1 beta_1 decay mu"),
    ("eps", "epsilon eps_hat epsilon_hat"),
    ("weight_decay", "wd l2 weight_decay_rate"),
    ("lr", "learning_rate eta step_size stepsize alpha lr0"),
)

#: What is one tuple elsewhere, and numbers of their own here.
_TUPLES: Mapping[str, tuple[str, ...]] = {
    "betas": ("beta1", "beta2", "beta3"),
    "eps": ("eps1", "eps2"),
    "etas": ("shrink", "grow"),
    "step_sizes": ("smallest", "largest"),
    "ns_coefficients": ("ns_a", "ns_b", "ns_c"),
}
_COUNTS = {2: "two", 3: "three"}

#: What no rule has under another name, and what to do instead.
REMEDIES = (
    ("momentum dampening", "Momentum has it: Momentum(lr=0.01, momentum=0.9)"),
    ("nesterov", "Nesterov has it: Nesterov(lr=0.01, momentum=0.9)"),
    (
        "weight_decay wd l2 weight_decay_rate",
        (
            "put weight_decay(rate) before the optimizer in a chain, which is the L2 penalty, or "
            "decoupled_weight_decay(rate) after it, which is that of AdamW"
        ),
    ),
    ("amsgrad", "AMSGrad, Adam, AdamW and NAdam have it"),
    ("centered", "RMSProp has it"),
    ("maximize", "put maximize() before the optimizer in a chain"),
    ("clipnorm clip_norm", "put clip_by_norm(max_norm) before it in a chain"),
    ("global_clipnorm max_grad_norm", "put clip_by_global_norm(max_norm) before it in a chain"),
    ("clipvalue clip_value", "put clip_by_value(limit) before it in a chain"),
    ("use_ema ema_momentum ema_decay", "put average(decay) after it in a chain"),
    (
        "gradient_accumulation_steps accumulate_steps every_k_schedule",
        "put accumulate(k) before it in a chain",
    ),
    ("loss_scale loss_scale_factor dynamic", "put dynamic_scale() before it in a chain"),
    ("mask exclude", "choose leaves with overrides={pattern: {...}}, or with frozen=(pattern,)"),
    ("mu_dtype accumulator_dtype dtype", "state is kept in state_dtype"),
    ("schedule scheduler lr_scheduler lr_schedule", "give a schedule as lr"),
    ("lr_decay", "give a schedule as lr: InverseTime(0.01, rate=lr_decay)"),
    ("foreach fused jit_compile capturable", "leave it out: a step is as fused as arrays allow"),
    ("differentiable device name", "leave it out"),
    ("params parameters model", "give the parameters to update(params, grads)"),
)

#: Attributes and functions of other libraries, and what to call instead.
ATTRIBUTES = {
    "step": "update(params, grads) takes a step",
    "zero_grad": "gradients are handed to update(params, grads), and none is kept; leave it out",
    "param_groups": "optimizer.lr = 0.1 sets a hyperparameter, and overrides={pattern: {...}} one "
    "of some parameters",
    "add_param_group": "give update(params, grads) a tree that has the new parameters, too",
    "minimize": "instep.minimize(value_and_grad, params, optimizer) has the loop",
    "init": "the first update(params, grads) makes the state; leave it out",
    "apply_updates": "update(params, grads) changes the parameters itself, and returns them",
    "apply_gradients": "update(params, grads) takes a step",
    "state": "state_dict() returns a copy of it",
    "learning_rate": "it is called lr here",
}

#: Rooms that are imported by those who need them.
_ROOMS = {
    "bridges": "import instep.bridges.torch, instep.bridges.optax or instep.bridges.keras",
    "distributed": "import instep.distributed, which needs mpi4py",
    "Sharded": "it is in instep.distributed, which needs mpi4py",
    "MeanObjective": "it is in instep.distributed, which needs mpi4py",
}

#: Names of classes in the lower case and without underscores, where they differ otherwise.
NAMES = {
    "gradientdescent": "SGD",
    "gd": "SGD",
    "noisysgd": "SGD",
    "heavyball": "Momentum",
    "momentumsgd": "Momentum",
    "nag": "Nesterov",
    "nadamw": "NAdam",
    "lbfgsb": "LBFGS",
    "proximalgradient": "FISTA",
    "ista": "FISTA",
    "nonlinearcg": "ConjugateGradient",
    "steplr": "StepDecay",
    "lambdalr": "Schedule",
    "multisteplr": "StepDecay",
    "cosineannealinglr": "Cosine",
    "cosinedecayschedule": "Cosine",
    "cosinedecay": "Cosine",
    "cosineannealingwarmrestarts": "CosineRestarts",
    "sequentiallr": "Join",
    "ema": "average",
    "multitransform": "partition",
    "applyevery": "accumulate",
    "multisteps": "accumulate",
    "clip": "clip_by_value",
    "clipgradnorm": "clip_by_global_norm",
    "adddecayedweights": "decoupled_weight_decay",
    "applyifnonfinite": "skip_nonfinite",
}


def remedy(name: str, own: Mapping[str, Any], settings: Iterable[str], given: Any = None) -> str:
    """Return what to write for a hyperparameter that a rule has not, or nothing.

    `own` are those that it has, with their values, `settings` the names of its settings, and
    `given` what the name was to be.
    """
    lower = name.lower()
    parts = [one for one in _TUPLES.get(lower, ()) if one in own]
    if len(parts) > 1:
        if isinstance(given, tuple | list):
            own = {**own, **dict(zip(parts, given, strict=False))}
        values = ", ".join(one if own[one] is None else f"{one}={own[one]!r}" for one in parts)
        return f"{values} are {_COUNTS[len(parts)]} numbers here"
    known = [*own, *settings]
    called = (here for here, others in CALLED if here in own and lower in others.split())
    like = [one for one in known if one.lower().replace("_", "") == lower.replace("_", "")]
    if found := next(called, next(iter(like), None)):
        return f"it is called {found} here"
    for others, text in REMEDIES:
        if lower in others.split():
            return text
    near = difflib.get_close_matches(lower, known, 1, 0.75)
    return f"did you mean {near[0]}?" if near else ""


def absent(module: str, name: str, found: Mapping[str, Iterable[str]]) -> Exception:
    """Return the error for a name that a module has not, read by the caller of the caller.

    `found` are the names that it has, and those of modules beside it, by what is to be written
    before them.
    """
    hint = _hint(name, found)
    # In `from module import name` an AttributeError becomes an ImportError that says nothing.
    reader = sys._getframe(2)  # noqa: SLF001 - nothing else tells who reads an attribute
    code, place = reader.f_code.co_code, reader.f_lasti
    if hint and 0 <= place < len(code) and dis.opname[code[place]] == "IMPORT_FROM":
        return ImportError(f"cannot import name {name!r} from {module!r}; {hint}", name=module)
    text = f"module {module!r} has no attribute {name!r}"
    return AttributeError(f"{text}; {hint}" if hint else text, name=name, obj=None)


def _hint(name: str, found: Mapping[str, Iterable[str]]) -> str:
    """Return what to write for a name, or nothing."""
    plain = _plain(name)
    known = {_plain(one): before + one for before, names in found.items() for one in names}
    meant = known.get(plain) or known.get(_plain(NAMES.get(plain, "")))
    if meant is None and (told := ATTRIBUTES.get(name) or _ROOMS.get(name)):
        return told
    if meant is None and (near := difflib.get_close_matches(plain, known, 1, 0.75)):
        meant = known[near[0]]
    return "" if meant is None else f"did you mean {meant}?"


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


class Absent:
    """In the place of an attribute that other libraries have: reading it is an error that helps.

    A method `__getattr__` would make every attribute of an optimizer slower to read.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.__doc__ = f"Not here: {ATTRIBUTES[name]}."

    def __get__(self, instance: Any, owner: type) -> Any:
        for base in owner.__mro__:  # another base class may have one
            other = vars(base).get(self._name, self)
            if other is not self:
                return other.__get__(instance, owner) if hasattr(other, "__get__") else other
        # With an object beside, Python would look in it for a name that is like this one.
        raise AttributeError(
            f"{owner.__name__} has no attribute {self._name!r}; {ATTRIBUTES[self._name]}",
            name=self._name,
            obj=None,
        )

    def __repr__(self) -> str:
        return f"(not here: {ATTRIBUTES[self._name]})"


def absent_attributes() -> Iterator[tuple[str, Absent]]:
    """Return what stands in the place of attributes of other libraries, by their names."""
    return ((name, Absent(name)) for name in ATTRIBUTES)
