"""What a rule keeps, here and elsewhere: the rows of which the tables of the bridges are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instep.optimizer import Optimizer

#: Arrays and numbers of a parameter, by name.
Values = Mapping[str, Any]

#: Returns a value of one side, from the values of the other and the hyperparameters of the next
#: step, among them ``t``, the number of steps that the parameter took.
Conversion = Callable[[Values, Values], Any]


@dataclass(frozen=True)
class Field:
    """An array, or a number, that both sides keep of a parameter, or of the tree.

    Attributes
    ----------
    ours, theirs
        Its names.
    write, read
        Return what it is there, of what is here; and what it is here.
    divides
        The hyperparameter by which `write` divides.
    """

    ours: str
    theirs: str
    write: Conversion
    read: Conversion
    divides: str = ""


def same(ours: str, theirs: str) -> Field:
    """Return a field that is the same on both sides."""
    return Field(ours, theirs, lambda x, h: x[ours], lambda y, h: y[theirs])


def times(factor: Callable[[Values], float], ours: str, theirs: str, *, divides: str = "") -> Field:
    """Return a field that is here what it is there, times a number."""
    return Field(
        ours, theirs, lambda x, h: x[ours] / factor(h), lambda y, h: y[theirs] * factor(h), divides
    )


def squared(ours: str, theirs: str) -> Field:
    """Return a field that is there the square of what it is here."""
    return Field(ours, theirs, lambda x, h: x[ours] * x[ours], lambda y, h: np.sqrt(y[theirs]))


@dataclass(frozen=True)
class Row:
    """A rule that both sides have.

    Attributes
    ----------
    rule
        The class here.
    fields
        What is kept of each parameter.
    of_tree
        What is kept of the tree.
    needs
        Values of hyperparameters with which the rules are the same.
    shape
        Returns the shape of a parameter, of what the other side keeps of it. By default it is that
        of the first field that is there.
    needs_params
        Whether the shapes of parameters must be known.
    hint
        What else may be the reason where something is missing.
    """

    rule: type[Optimizer]
    fields: Sequence[Field] = ()
    of_tree: Sequence[Field] = ()
    needs: Values = field(default_factory=dict)
    shape: Callable[[Values], tuple[int, ...]] | None = None
    needs_params: bool = False
    hint: str = ""

    def shape_of(self, values: Values) -> tuple[int, ...]:
        """Return the shape of a parameter of which these are the fields of the other side."""
        if self.shape is not None:
            return self.shape(values)
        for one in self.fields:
            if one.theirs in values:
                return np.shape(values[one.theirs])
        return ()
