"""What optimizers and transforms have in common: hyperparameters, slots, and one pure function."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from instep import construction, declarations, elsewhere
from instep.construction import names_of
from instep.copying import Copied
from instep.hyperparameters import (
    Domain,
    Hyperparameter,
    describe_fields,
    inherit_annotations,
    is_array,
)
from instep.showing import Shown
from instep.signatures import write_signature


@dataclass(frozen=True)
class Form:
    """What a rule keeps for a parameter of one shape, where that depends on the shape.

    Attributes
    ----------
    slots
        Names of the state arrays that are like the parameter.
    whole
        State arrays of other shapes, by name. No fused operation can use them: a rule hands them
        to the function of `xp.apply`, and returns them as that has left them.
    between
        Names for the operands and results of `xp.apply`, in the order of its calls. Memory like
        that of a slot is kept for each, but it is no state.
    kind
        What the rule may branch on, as ``h.kind``.
    """

    slots: tuple[str, ...]
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    between: tuple[str, ...] = ()
    kind: str = ""

    def __post_init__(self) -> None:
        declarations.check_form(self)


_NONE: Mapping[str, Any] = MappingProxyType({})


def names_of_arrays(
    values: Mapping[str, Any], hyperparameters: Sequence[Hyperparameter]
) -> tuple[str, ...]:
    """Return the names of the hyperparameters whose values are arrays."""
    return tuple(entry.name for entry in hyperparameters if is_array(values.get(entry.name)))


def rates_that_move(
    values: Mapping[str, Any], hyperparameters: Sequence[Hyperparameter]
) -> dict[str, float | None]:
    """Return the decay rates that are schedules (see `Rule.moving`)."""
    decaying = (entry.name for entry in hyperparameters if entry.domain.decays)
    return {name: None for name in decaying if callable(values.get(name))}


class Edition:
    """The hyperparameters of all rules as they are: one comparison tells whether one was set.

    Attributes
    ----------
    present
        Another object after each change.
    """

    def __init__(self) -> None:
        self.present = object()

    def ends(self) -> None:
        """Take note of a change: before it, for an exception may come, and after it, for a step."""
        self.present = object()


edition = Edition()


class Standing:
    """What a rule says of where it can stand in a chain, and of what it does to others there."""

    #: Whether `rule` calls `xp.require`, and so may turn a call away. In a chain, such a rule
    #: stands before those that gather gradients of several calls.
    guarded: ClassVar[bool] = False

    #: Whether what a transform of the parameter returns is a point of a set, in which it keeps
    #: parameters, as `project` does. Answers are kept in it, too, and so are `points`.
    constrains: ClassVar[bool] = False

    #: Slots that are points beside the parameter, which move together with it, and of which the
    #: answer is made. `rule` hands each to `xp.constrained` once. In a chain, no transform after it
    #: changes the parameter alone.
    points: ClassVar[tuple[str, ...]] = ()

    #: Names of hyperparameters of the optimizer in a chain that this rule reads as its own.
    borrowed: ClassVar[tuple[str, ...]] = ()

    #: What stands in for the parameters when they are used, where it is not the parameters
    #: themselves, but a mean of their path, say: ``answer_rule(xp, w, s, h)`` returns it. `h` has
    #: the numbers of `scalar_slots`.
    #: (No ClassVar, for in pyright no method may override one that has a value.)
    answer_rule: Callable[..., Any] | None = None


class Adjustable(Copied, Shown, Standing):
    """What can be set of a rule, which is checked whenever it is set, and what follows from it."""

    def _assign(self, name: str, value: Any) -> None:
        """Set an attribute: a hyperparameter, a setting, or one with a leading underscore."""
        for hyperparameter in self.hyperparameters:
            if hyperparameter.name == name:
                value = hyperparameter.validate(self.name, value)
                if hyperparameter.domain.fixed and self.__dict__.get(name, value) != value:
                    raise AttributeError(
                        f"{self.name}: {name} cannot be changed, from {getattr(self, name):g} to "
                        f"{value:g}: what it has kept depends on it; make a new {self.name}"
                    )
                if self.defines("check_values"):  # it is set at every step
                    values = {**self.__dict__, name: value}
                    if all(entry.name in values for entry in self.hyperparameters):
                        self.check_values(values)
                if hyperparameter.option:
                    self._changed()  # before, for an exception may come, and after, for a step may
                self._set(hyperparameter, value)
                if hyperparameter.option:
                    self._changed()
                return
        if name in self._settings:
            value = self._settings[name](self.name, value)
            self._check_setting(name, value)
            object.__setattr__(self, name, value)
            self._changed()
        elif name.startswith("_") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            remedy = self._remedy(name, value) or (
                f"it has {self._names_to_set()}; an attribute of your own begins with an "
                f"underscore, _{name}"
            )
            raise AttributeError(f"{self.name} has no hyperparameter {name!r}; {remedy}")

    if not TYPE_CHECKING:  # type checkers would take every name for one that can be set
        __setattr__ = _assign

    def __delattr__(self, name: str) -> None:
        if not name.startswith("_"):
            raise AttributeError(
                f"{self.name}: {name} cannot be deleted, for steps read it; set it to what it is "
                f"to be"
            )
        object.__delattr__(self, name)

    def _set(self, entry: Hyperparameter, value: Any) -> None:
        """Set a hyperparameter, and at once take note of which are arrays, and which move."""
        name, moving = entry.name, self.moving
        if entry.domain.decays and name not in moving:
            constant = self.__dict__.get(name)
            constant = constant if isinstance(constant, float) else None
            if callable(value) or (isinstance(value, float) and constant not in (None, value)):
                moving = {**moving, name: constant}
        if moving is self.moving and not (self.varying or is_array(value)):
            edition.ends()
            object.__setattr__(self, name, value)
            edition.ends()
            return
        new = {**self.__dict__, name: value}
        varying = names_of_arrays(new, self.hyperparameters)
        self._changed()  # before, for an exception may come, and after, for a step may
        notes: dict[str, Any] = {name: value, "_varying": varying}
        if moving:
            notes["_moving"] = moving
        self.__dict__.update(notes)
        edition.ends()
        self._changed()

    def _remedy(self, name: str, given: Any = None) -> str:
        """Return what to write instead of a name that is not its own, or nothing."""
        own = {entry.name: getattr(self, entry.name, None) for entry in self.hyperparameters}
        value = getattr(type(self), name, None)
        if isinstance(value, bool | str | int | float) and name not in declarations.RESERVED:
            kind = type(value).__name__ if isinstance(value, bool | str) else "float"
            return f"annotate it in the class: {name}: {kind} = {value!r}"
        return elsewhere.remedy(name, own, self._settings, given)

    def _names_to_set(self) -> str:
        """Return the names of what can be set, for messages."""
        return names_of(self.hyperparameters)

    def _check_setting(self, name: str, value: Any) -> None:
        """Raise if a setting, valid by itself, does not fit the rule."""

    def _changed(self) -> None:
        """Take note that something changed of which plans depend."""

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the hyperparameters that are arrays."""
        found: tuple[str, ...] = self.__dict__.get("_varying", ())
        return found

    @property
    def moving(self) -> Mapping[str, float | None]:
        """The decay rates that are schedules or were set anew, with what they were before that."""
        found: Mapping[str, float | None] = self.__dict__.get("_moving", _NONE)
        return found

    @classmethod
    def defines(cls, attribute: str) -> bool:
        """Return whether a class has an attribute of its own in place of that of the base class."""
        return getattr(cls, attribute) is not getattr(Rule, attribute)

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise if hyperparameters, each of them in its domain, do not fit together.

        This runs whenever one of them is set. Values may be schedules, which only `scalars`
        meets as numbers, and arrays, which it never meets: a step calls this for those that
        `overrides` brings together.
        """


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
@dataclass(eq=False, repr=False)
class Rule(Adjustable):
    """A piece of mathematics with its hyperparameters: the base of `Optimizer` and `Transform`.

    A subclass declares its hyperparameters as annotated fields with defaults. They are validated
    whenever they are set: a number, a schedule, or an array of the shape of the parameter. Fields
    of type bool or str are options, on which `rule` may branch; one that is annotated with
    ``Literal["a", "b"]`` takes these values alone. No hyperparameter or slot has the name of an
    attribute of the base classes.
    """

    #: Names of the state arrays of a parameter; they start as zeros (see `initial_state`).
    slots: ClassVar[tuple[str, ...]] = ()

    #: Those that are real where the parameter is complex, as of squares and magnitudes; and names
    #: of `Form.whole` and `Form.between` that are.
    real_slots: ClassVar[tuple[str, ...]] = ()

    #: Those that there are only while an option is on, and its name, as in ``{"x": "amsgrad"}``; or
    #: its name and the value that it must have, as in ``{"b": ("lr_in_velocity", False)}``.
    optional_slots: ClassVar[Mapping[str, str | tuple[str, bool | str]]] = {}

    #: Those that are kept as ever, whatever `state_dtype` says: means of parameters, say, and sums
    #: of gradients. So are those that start as a copy of the parameter.
    exact_slots: ClassVar[tuple[str, ...]] = ()

    #: Those that hold no negative numbers, as of squares. Their codes of 8 bits have no sign, more
    #: exponents, and none for zero that is not of zero, by which a rule may divide. None: it is not
    #: known, and state in 8 bits is refused.
    positive_slots: ClassVar[tuple[str, ...] | None] = None

    #: Numbers that are remembered from step to step, with their initial values. `scalars` sees
    #: the old value in `h` and returns the new one under the same name; `rule` sees the new one.
    scalar_slots: ClassVar[Mapping[str, float]] = {}

    #: Numbers that are remembered for each tensor, and those for the tree, with their first values:
    #: a number, or the name of a hyperparameter, whose value at the first step it is. `rule` reads
    #: and returns them as slots. They are float64 and made of what sums leave, those of the tree of
    #: sums over the tree, in the midst of a step; those of `scalar_slots` are made before it.
    tensor_numbers: ClassVar[Mapping[str, float | str]] = {}
    tree_numbers: ClassVar[Mapping[str, float | str]] = {}

    #: Those of `tree_numbers` that a call leaves which is turned away, too.
    lasting_numbers: ClassVar[tuple[str, ...]] = ()

    #: What those of `tree_numbers` can be: a state in which one is another is damaged.
    number_domains: ClassVar[Mapping[str, Domain]] = {}

    #: Numbers of a step that `rule` returns beside its slots, and that users find in `readings`:
    #: one for each tensor, and those for the tree. They are made of sums and hyperparameters.
    tensor_readings: ClassVar[tuple[str, ...]] = ()
    tree_readings: ClassVar[tuple[str, ...]] = ()

    #: Whether `rule` reads ``h.value``, the value of the objective that `update` is given,
    #: as a number that a sum leaves.
    needs_value: ClassVar[bool] = False

    #: Whether `rule` calls `xp.random`.
    needs_random: ClassVar[bool] = False

    #: What the annotated fields declare, in their order.
    hyperparameters: ClassVar[tuple[Hyperparameter, ...]] = ()

    #: The mathematics. ``rule(xp, w, g, s, h)`` returns new values and a dict of new slots.
    rule: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        inherit_annotations(cls)
        constructor: Any = cls.__init__
        is_written = constructor is not Rule.__init__ and not construction.is_generated(constructor)
        dataclass(init=not is_written, eq=False, repr=False)(cls)
        if not is_written:
            write_signature(cls)
            constructor = construction.checked(cls)
        elif "__init__" in vars(cls):
            constructor = construction.completing(constructor)
        type.__setattr__(cls, "__init__", constructor)
        cls.hyperparameters = describe_fields(cls, frozenset(cls._settings))
        declarations.check_class(cls)

    def __post_init__(self) -> None:
        if not callable(getattr(self, "rule", None)):
            bases = (base.__name__ for base in type(self).__mro__)
            public = next((name for name in bases if name in ("Optimizer", "Transform")), "Rule")
            raise TypeError(
                f"{self.name} has no rule; define the static method rule(xp, w, g, s, h) in a "
                f"subclass, as the documentation of the class {public} describes"
            )
        declarations.check_instance(self)

    @property
    def period(self) -> int:
        """Number of calls that make one step of what stands after this rule in a chain."""
        return 1

    def state_slots(self) -> tuple[str, ...]:
        """Return the names of the state arrays under the present options.

        Where a number decides, or more than one option, a rule overrides this.
        """
        on = self.optional_slots
        if not on:
            return self.slots
        return tuple([slot for slot in self.slots if slot not in on or self._is_chosen(on[slot])])

    def _is_chosen(self, option: str | tuple[str, bool | str]) -> bool:
        """Return whether an option is on, or has the value that is beside its name."""
        if isinstance(option, str):
            return bool(getattr(self, option))
        name, value = option
        return bool(getattr(self, name) == value)

    @property
    def numbers(self) -> Mapping[str, float | str]:
        """The numbers that sums leave and that are remembered, with their first values."""
        return {**self.tensor_numbers, **self.tree_numbers}

    @property
    def scopes(self) -> Mapping[str, str]:
        """The numbers that can be read of a step, and whether each tensor has one, or the tree."""
        of_tensors = dict.fromkeys(self.tensor_readings, "tensor")
        return {**of_tensors, **dict.fromkeys(self.tree_readings, "tree")}

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return what the rule keeps for a parameter of this shape: some of its slots, or all."""
        return Form(self.state_slots())

    def initial_state(self) -> Mapping[str, float | str]:
        """Return how slots start that do not start at zero.

        A number is the value of every element; ``"w"`` is a copy of the parameter; another
        string names the hyperparameter whose value at the first step is that of every element, or
        whose array the slot is a copy of.
        """
        return {}

    @staticmethod
    def scalars(h: Any) -> Mapping[str, float | bool]:
        """Return further numbers for `h`, computed from the hyperparameters at every step.

        This runs in plain Python, once a step, so it may use the module math and branch. The
        rule may branch on values that are booleans: each is a kernel of its own. Hyperparameters
        that are arrays are not in `h` here (``"lr" in h`` tells); reading one is an error.
        """
        return {}
