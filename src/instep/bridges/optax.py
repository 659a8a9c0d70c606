"""The bridge to optax: the trees of named tuples that ``init`` and ``update`` return.

.. skip: start if(__import__("importlib.util").util.find_spec("optax") is None, reason="no optax")
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from instep import arrays, tree
from instep.bridges import optax_trees as trees
from instep.bridges.fields import Values
from instep.bridges.loading import Given, Read, load
from instep.bridges.opened import AnyOptimizer, Opened, opened
from instep.bridges.optax_rows import NAMES, ROWS, OptaxRow
from instep.hyperparameters import described
from instep.optimizer import Optimizer

_THERE = "optax"


def to_optax(optimizer: Optimizer, state: Any) -> Any:
    """Return a state of optax with what an optimizer keeps.

    Parameters
    ----------
    optimizer
        One of instep.
    state
        What ``tx.init(params)`` has returned, for the same tree of parameters. It tells the
        structure, and is not changed.

    Returns
    -------
    A state of this structure, with these dtypes, for ``tx.update``. Arrays are copied.

    Raises
    ------
    TypeError, ValueError
        If the state is of another optimizer, or of other parameters; or parameters took
        different numbers of steps, for which optax has one count.

    Notes
    -----
    optax has hyperparameters in functions, and not in the state: give ``tx`` those of the
    optimizer. Those that ``inject_hyperparams`` keeps in the state stay as they are.
    Schedules go on where the optimizer is.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax
    >>> from instep import Adam
    >>> from instep.bridges.optax import to_optax
    >>> optimizer = Adam(lr=0.5)
    >>> params = optimizer.update({"w": np.ones(2)}, {"w": np.ones(2)})
    >>> tx = optax.adam(0.5)
    >>> state = to_optax(optimizer, tx.init({"w": jnp.ones(2)}))
    >>> int(state[0].count), state[0].mu
    (1, {'w': Array([0.1, 0.1], dtype=float32)})
    """
    one = opened("to_optax", _THERE, ROWS, optimizer)
    found = _found(one, state)
    _check_parts(one, found)
    _check_keys(one, found)
    if not one.keys:
        begun = _row(one).counts  # some begin at 1
        if any(_count(one, name, x) > begun.get(name, 0) for name, x in found.counts.items()):
            raise ValueError(
                "to_optax: the optimizer has no state, and that of optax has taken steps; give "
                "what tx.init(params) returns"
            )
        return state
    steps = {one.taken(key) for key in one.keys}
    if len(steps) > 1:
        raise ValueError(
            f"to_optax: parameters took {', '.join(map(str, sorted(steps)))} steps, for which "
            f"optax has one count; forget those that missed some, with `forget`"
        )
    taken = steps.pop()
    row = _row(one)
    numbers = one.numbers(one.present(), taken)
    written, shared = _written(one, row, numbers)
    shared |= {name: taken + more for name, more in row.counts.items()}
    shared |= {name: make(numbers) for name, make in row.derived.items()}
    shared |= row.begun

    def change(field: str, old: Any) -> Any:
        if trees.is_counter(field):
            return trees.like(old, taken)
        if field in shared:
            return trees.like(old, shared[field])
        if field not in found.arrays:
            return old
        return trees.filled("to_optax", old, lambda key, x: _like(written[key], field, key, x))

    return trees.replaced(state, change)


def from_optax(
    optimizer: AnyOptimizer, state: Any, params: Any = None, *, t: Any = None
) -> AnyOptimizer:
    """Give an optimizer the state of one of optax.

    The optimizer is given, for hyperparameters are not in the state: optax has them in functions.
    They stay as they are, and are to be those with which ``tx`` was made; but for those that
    `inject_hyperparams` keeps in the state, which are taken over where they are no schedules here.

    Parameters
    ----------
    optimizer
        One of instep, of the class that has the rule.
    state
        What ``tx.init`` or ``tx.update`` has returned. The named tuple of the rule is found in
        chains, masks and `inject_hyperparams`.
    params
        The tree of parameters. With it shapes are looked at, and `Adafactor` needs it.
    t
        Number of steps that were taken, where the state has no count, as that of ``optax.sgd``
        with a number as its rate: schedules go on there. By default 1.

    Returns
    -------
    The optimizer.

    Raises
    ------
    TypeError, ValueError
        If it is the state of another optimizer, or has more than that. Nothing has changed then.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from instep import Adam
    >>> from instep.bridges.optax import from_optax
    >>> tx, params = optax.adam(0.5), {"w": jnp.ones(2)}
    >>> _, state = tx.update({"w": jnp.ones(2)}, tx.init(params))
    >>> from_optax(Adam(lr=0.5), state).t
    1
    """
    one = opened("from_optax", _THERE, ROWS, optimizer)
    found = _found(one, state)
    row, known = _row(one), {}
    if params is not None:
        known = {tree.join_path(path): leaf for path, leaf in tree.flatten(params)}
    elif row.needs_params:
        raise ValueError(
            f"from_optax: the state of {one.rule.name} does not tell the shapes of parameters; "
            f"give params"
        )
    _check_parts(one, found)
    steps, values = _steps(one, found, t), _injected(one, found)
    shared = {name: np.asarray(x) for name, x in found.numbers.items()}
    read = {}
    for key, fields in found.by_key().items():
        given: Values = {name: _array(x) for name, x in fields.items()}
        read[key] = Read(steps, row.placed(given) if row.placed else given)
        if known and key not in known:
            raise ValueError(
                f"from_optax: params has no {key!r}, of which the state is; give the same tree"
            )
    if steps == 0:
        load(one, Given(0, {}, values))
        return optimizer
    _check_derived(one, row, shared)
    numbers = one.numbers(one.present() | values, steps)
    of_all = {field.ours: field.read(shared, numbers) for field in row.of_all}
    load(one, Given(steps, read, values, of_tree=shared, of_all=of_all, arrays=known))
    return optimizer


class _Found:
    """What is in a state of optax, of the row of a rule."""

    def __init__(self) -> None:
        self.arrays: dict[str, dict[str, Any]] = {}
        self.numbers: dict[str, Any] = {}
        self.counts: dict[str, Any] = {}  # those of schedules, and of steps
        self.injected: dict[str, Any] = {}

    def by_key(self) -> dict[str, dict[str, Any]]:
        """Return the arrays of each parameter, by their fields."""
        found: dict[str, dict[str, Any]] = {}
        for field, own in self.arrays.items():
            for key, x in own.items():
                found.setdefault(key, {})[field] = x
        return found


def _row(one: Opened) -> OptaxRow:
    assert isinstance(one.row, OptaxRow)
    return one.row


def _found(one: Opened, state: Any) -> _Found:
    """Return what is in a state of optax, or raise if it is of another rule, or has more."""
    row, found = _row(one), _Found()
    arrays_of = {field.theirs for field in row.fields}
    numbers_of = {field.theirs for field in (*row.of_tree, *row.of_all)}
    numbers_of |= row.counts.keys() | row.derived.keys() | row.begun.keys()
    for prefix, rule in one.optimizer.parts.items():
        if rule is not one.rule and (rule.slots or rule.numbers or rule.period > 1):
            raise ValueError(
                f"{one.call}: {rule.name}, whose names begin with {prefix!r}, keeps state of its "
                f"own in the chain, for which the bridge has no row; leave it out of the chain"
            )
    for held in trees.states(one.call, state):
        found.counts |= trees.counters(held)
        found.injected |= trees.injected(held)
        for field, x in trees.contents(held).items():
            if field in found.arrays or field in found.numbers:
                raise ValueError(
                    f"{one.call}: the state has {field} twice; give that of one optimizer"
                )
            if field in arrays_of:
                found.arrays[field] = trees.leaves(one.call, x)
            elif field in numbers_of:
                found.numbers[field] = x
                found.counts |= {field: x} if field in row.counts else {}
            else:
                raise ValueError(
                    f"{one.call}: the state has {field}, for which {one.rule.name} has nothing; "
                    f"give the optimizer that it is of, and leave out what else keeps state"
                )
    return found


def _written(
    one: Opened, row: OptaxRow, numbers: Values
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the fields of parameters by their keys, and those that all have."""
    written, of_all = {}, []
    names = {field.ours for field in row.of_all}
    for key in one.keys:
        own = one.numbers(one.present() | one.overridden(key), one.taken(key))
        values = one.values(key, own)
        of_all.append({name: values.pop(name) for name in names})
        written[key] = one.written(repr(key), row.fields, values, own)
    if any(other != of_all[0] for other in of_all):
        raise ValueError(
            f"{one.call}: {one.rule.name} has other {', '.join(sorted(names))} for some "
            f"parameters, and optax has one for all; use no overrides of lr, and no missing "
            f"gradients"
        )
    shared = one.written("the tree", row.of_tree, one.of_tree(), numbers)
    shared |= {field.theirs: field.write(of_all[0], numbers) for field in row.of_all}
    return written, shared


def _check_keys(one: Opened, found: _Found) -> None:
    """Raise unless the optimizer and a state of optax are of the same parameters."""
    keys = found.by_key().keys()
    if not one.keys or not (found.arrays or one.row.fields):
        return
    if others := sorted({*one.keys} - keys):
        raise ValueError(
            f"{one.call}: the state has no parameter {others[0]!r}, of which the optimizer has "
            f"state; it has {', '.join(map(repr, sorted(keys)[:10]))}: give that of the same tree"
        )
    if others := sorted(keys - {*one.keys}):
        raise ValueError(
            f"{one.call}: the optimizer has no state of {others[0]!r}, and optax keeps some of all "
            f"parameters; take a step with all, or mask it there"
        )


def _like(fields: Mapping[str, Any], field: str, key: str, old: Any) -> Any:
    """Return what optax keeps of a parameter, or raise."""
    if field not in fields:
        if tuple(old.shape) == (1,):  # where nothing is kept
            return old
        raise ValueError(
            f"to_optax: the state has {field} of {key!r}, for which the optimizer has nothing, "
            f"with the options that it has; make both with the same"
        )
    new = fields[field]
    if np.shape(new) != tuple(old.shape):
        raise ValueError(
            f"to_optax: {field} of {key!r} has shape {tuple(old.shape)}, and that of the optimizer "
            f"{np.shape(new)}; give a state of the same parameters and options"
        )
    return trees.like(old, new)


def _steps(one: Opened, found: _Found, t: Any) -> int:
    """Return how many steps were taken, as a state of optax says or the user, or raise."""
    row = _row(one)
    counts = {_count(one, name, x) - row.counts.get(name, 0) for name, x in found.counts.items()}
    missing = [name for name in row.counts if name not in found.numbers]
    missing += [
        field.theirs for field in (*row.of_tree, *row.of_all) if field.theirs not in found.numbers
    ]
    if missing:
        raise ValueError(
            f"{one.call}: the state has no {missing[0]}, which optax keeps for {one.rule.name}; "
            f"give the optimizer that it is of"
        )
    if len(counts) > 1:
        raise ValueError(f"{one.call}: the counts of the state differ, {counts}; it is damaged")
    if t is not None and (isinstance(t, bool) or not isinstance(t, int) or t < 0):
        raise ValueError(f"{one.call}: t must be an integer, at least 0, got {described(t)}")
    if counts and t not in (None, *counts):
        raise ValueError(f"{one.call}: t is {t}, and the state counts {counts}; leave it out")
    if any(bool(found.numbers[name]) != value for name, value in row.begun.items()):
        return 0
    return counts.pop() if counts else 1 if t is None else t


def _count(one: Opened, name: str, x: Any) -> int:
    """Return a number of steps, or raise."""
    number = _array(x)
    if number.size != 1 or number.dtype.kind not in "iu":
        raise ValueError(
            f"{one.call}: {name} must be a number of steps, got {described(x)}; the state is "
            f"damaged"
        )
    return int(number.item())


def _injected(one: Opened, found: _Found) -> dict[str, Any]:
    """Return the hyperparameters that a state has, for those that are numbers here."""
    present, values = one.present(), dict[str, Any]()
    entries = {entry.name: entry for entry in one.rule.hyperparameters}
    for theirs, x in found.injected.items():
        name = NAMES.get(theirs, "")
        if name in present and not callable(present[name]):
            number = _array(x)
            # A float32 that is the number here, rounded, is that number.
            is_same = number.size == 1 and number == number.dtype.type(present[name])
            values[name] = (
                present[name]
                if is_same
                else entries[name].validate(f"{one.call}, {theirs}", number.item())
            )
    return values


def _check_parts(one: Opened, found: _Found) -> None:
    """Raise if complex numbers are pairs here: optax has them whole."""
    own = (x for leaves in found.arrays.values() for x in leaves.values())
    if one.optimizer.complex == "pairs" and any(np.iscomplexobj(_array(x)) for x in own):
        raise ValueError(
            f"{one.call}: the state is of complex numbers, which optax takes as they are; make the "
            f"optimizer with complex='modulus'"
        )


def _check_derived(one: Opened, row: OptaxRow, shared: Values) -> None:
    """Raise unless what is a hyperparameter in the state is that of the optimizer."""
    numbers = one.numbers(one.present(), 0)
    for name, make in row.derived.items():
        if not np.isclose(float(shared[name]), make(numbers), rtol=1e-6):
            raise ValueError(
                f"{one.call}: the state has {name}={float(shared[name])!r}, and the optimizer "
                f"{make(numbers)!r}; make both with the same"
            )


def _array(x: Any) -> Any:
    """Return an array of JAX as one of NumPy."""
    return np.asarray(x if arrays.library(x) is None else arrays.to_numpy(x))
