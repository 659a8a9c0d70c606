"""The bridge to PyTorch: the `state_dict` of the classes of `torch.optim`.

.. skip: start if(__import__("importlib.util").util.find_spec("torch") is None, reason="no torch")
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instep import arrays
from instep.bridges.loading import Given, Read, load
from instep.bridges.names import Names, named
from instep.bridges.opened import AnyOptimizer, Opened, opened
from instep.bridges.torch_complex import like_parameter, put_together, taken_apart
from instep.bridges.torch_groups import Groups
from instep.bridges.torch_rows import ROWS, TorchRow
from instep.hyperparameters import described
from instep.optimizer import Optimizer

#: Paths, or a dict of them to the parameters; or such for each group.
Paths = Sequence[str] | Mapping[str, Any] | Sequence[Sequence[str] | Mapping[str, Any]]

_THERE = "torch.optim"


def to_torch(optimizer: Optimizer, names: Paths) -> dict[str, Any]:
    """Return the state of an optimizer as a `state_dict` that `torch.optim` loads.

    Parameters
    ----------
    optimizer
        One of instep. In a chain, `weight_decay`, `maximize` and `decoupled_weight_decay` become
        the options of PyTorch of these names. What stands before them and keeps nothing, such as
        `clip_by_global_norm`, is no part of an optimizer there, and the loop does it.
    names
        The paths of the parameters, in the order in which torch's optimizer has them: of
        ``dict(module.named_parameters())``, say. It may be a list of lists, one for each group of
        torch's; where `overrides` differ, it must.

    Returns
    -------
    What ``load_state_dict`` of the class of `torch.optim` takes that has the rule, with the
    options of that class; those that change no number, such as `fused`, are as by default, and are
    set after loading. Arrays are copied. A schedule becomes the number of the next step, for
    PyTorch's schedulers are no part of an optimizer.

    Raises
    ------
    TypeError, ValueError
        If torch has no such rule, or not with these hyperparameters; or names do not fit.

    Notes
    -----
    A velocity has no learning rate in it there. It is divided by that of the next step, so that
    both take the same path as long as the rate is constant.

    Examples
    --------
    >>> import torch
    >>> import numpy as np
    >>> from instep import Adam
    >>> from instep.bridges.torch import to_torch
    >>> module = torch.nn.Linear(2, 1)
    >>> names = [name for name, _ in module.named_parameters()]
    >>> optimizer = Adam(lr=0.5)
    >>> params = {"weight": np.ones((1, 2)), "bias": np.ones(1)}
    >>> params = optimizer.update(params, {"weight": np.ones((1, 2)), "bias": np.ones(1)})
    >>> theirs = torch.optim.Adam(module.parameters())
    >>> theirs.load_state_dict(to_torch(optimizer, names))
    >>> theirs.param_groups[0]["lr"], theirs.state[module.bias]["exp_avg"]
    (0.5, tensor([0.1000]))
    """
    one, given = opened("to_torch", _THERE, ROWS, optimizer), named("to_torch", names)
    groups = Groups(one)
    import torch

    for key in one.keys:
        if key not in given.flat:
            raise ValueError(
                f"to_torch: names has not {key!r}, of which the optimizer has state; give the "
                f"paths of all parameters, or forget it, with `forget`"
            )
    states = {
        index: _written(torch, one, key, given.arrays.get(key))
        for index, key in enumerate(given.flat)
        if key in one.state["states"]
    }
    states = {index: fields for index, fields in states.items() if fields}
    return {"state": states, "param_groups": groups.written(given, _defaults(torch, _row(one)))}


def from_torch(
    optimizer: AnyOptimizer,
    state_dict: Mapping[str, Any],
    names: Paths | None = None,
    *,
    t: Any = None,
) -> AnyOptimizer:
    """Give an optimizer the state of one of `torch.optim`, with its hyperparameters.

    The optimizer is given, for a `state_dict` does not say of which class it is: those of Adam and
    RAdam look alike. Engine and other settings stay as they are, and so do schedules.

    Parameters
    ----------
    optimizer
        One of instep, of the class that has the rule: ``Adam()``, or
        ``chain(weight_decay(), Adam())`` where torch's has the option `weight_decay`. Its numbers
        are replaced by those of the state. Several groups become `overrides`.
    state_dict
        What ``state_dict()`` of torch's optimizer has returned. It is not changed.
    names
        The paths of the parameters in instep, in the order in which torch's optimizer was given
        them: ``[name for name, _ in module.named_parameters()]``; or a dict of these to the
        parameters, whose shapes are looked at then; or a list of such, one for each group. It can
        be left out where the state has the names, because torch's optimizer was given
        ``module.named_parameters()``.
    t
        Number of steps that were taken, for classes that do not count them (`SGD`, `Muon`):
        schedules go on there. By default 1, or 0 where there is no state.

    Returns
    -------
    The optimizer.

    Raises
    ------
    TypeError, ValueError
        If it is the state of another optimizer, or has options that instep has not. Nothing has
        changed then.

    Examples
    --------
    >>> import torch
    >>> from instep import Adam
    >>> from instep.bridges.torch import from_torch
    >>> module = torch.nn.Linear(2, 1)
    >>> theirs = torch.optim.Adam(module.named_parameters(), lr=0.5)
    >>> module(torch.ones(2)).sum().backward()
    >>> theirs.step()
    >>> optimizer = from_torch(Adam(), theirs.state_dict())
    >>> optimizer.t, optimizer.lr
    (1, 0.5)
    """
    one = opened("from_torch", _THERE, ROWS, optimizer)
    groups = Groups(one)
    states, entries = _entries(state_dict)
    given = named("from_torch", _names(entries) if names is None else names)
    places = _places(entries, given)
    of_first, overrides, others = groups.read(entries, given, states)
    if stray := [index for index in states if index not in places]:
        raise ValueError(
            f"from_torch: the state is of parameter {stray[0]!r} too, which no group has; it is "
            f"damaged"
        )
    read = {places[index]: _read(_row(one), places[index], x) for index, x in states.items()}
    for index, x in states.items():
        key = places[index]
        values = one.present() | of_first | overrides.get(key, {})
        _check_derived(one, key, x, values, read[key].taken)
    read = {
        key: Read(entry.taken, taken_apart(one, key, entry.fields))
        for key, entry in read.items()
        if entry.fields  # there are none before a step
    }
    known_arrays = {key: like_parameter(one, x) for key, x in given.arrays.items()}
    known = max((entry.taken for entry in read.values()), default=0)
    steps = known if t is None else t
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < known:
        raise ValueError(
            f"from_torch: t must be an integer, at least {known}, which the state has, got "
            f"{described(t)}"
        )
    if not _row(one).counts:
        read = {key: Read(steps, entry.fields) for key, entry in read.items()}
    load(
        one,
        Given(steps, read, of_first, overrides=overrides, others=others, arrays=known_arrays),
    )
    return optimizer


def _row(one: Opened) -> TorchRow:
    assert isinstance(one.row, TorchRow)
    return one.row


def _written(torch: Any, one: Opened, key: str, array: Any) -> dict[str, Any]:
    """Return the state of a parameter as tensors."""
    row, taken = _row(one), one.taken(key)
    values = one.present() | one.overridden(key, array)
    numbers = one.numbers(values, taken)
    found = one.written(repr(key), row.fields, one.values(key, numbers), numbers)
    found = put_together(one, key, found, array)
    tensors = {
        name: torch.as_tensor(np.array(x, None if np.ndim(x) or np.iscomplexobj(x) else np.float64))
        for name, x in found.items()
    }
    if row.counts:
        scalar = torch.get_default_dtype()
        derived = {name: torch.tensor(f(numbers)) for name, f in row.derived.items()}
        tensors = {"step": torch.tensor(float(taken), dtype=scalar), **derived, **tensors}
    return tensors


def _defaults(torch: Any, row: TorchRow) -> dict[str, Any]:
    """Return the options of a class of torch, as the installed version has them."""
    peer = getattr(torch.optim, row.peer, None)
    if peer is None:
        raise ValueError(
            f"to_torch: torch.optim {torch.__version__} has no {row.peer}; install a version that "
            f"has it"
        )
    return dict(peer([torch.nn.Parameter(torch.zeros(1, 1))]).defaults)


def _entries(given: Any) -> tuple[Mapping[int, Any], list[Mapping[str, Any]]]:
    """Return the states of parameters, and the groups, or raise."""
    if not isinstance(given, Mapping) or not {"state", "param_groups"} <= given.keys():
        raise TypeError(
            f"from_torch: state_dict must have 'state' and 'param_groups', got "
            f"{described(given)}; pass what state_dict() of torch's optimizer has returned"
        )
    states, groups = given["state"], given["param_groups"]
    if not isinstance(states, Mapping):
        raise TypeError(f"from_torch: 'state' must be a dict, got {described(states)}")
    for number, fields in states.items():
        if not isinstance(fields, Mapping):
            raise TypeError(
                f"from_torch: the state of {number!r} is no dict, got {described(fields)}"
            )
    if not isinstance(groups, list | tuple) or not all(
        isinstance(group, Mapping) and "params" in group for group in groups
    ):
        raise TypeError(
            f"from_torch: 'param_groups' must be a list of dicts with 'params', got "
            f"{described(groups)}"
        )
    return states, list(groups)


def _names(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    if all("param_names" in group for group in groups):
        return [list(group["param_names"]) for group in groups]
    raise ValueError(
        "from_torch: the state has no names of parameters; give names, their paths in the order in "
        "which torch's optimizer was given them"
    )


def _places(groups: Sequence[Mapping[str, Any]], names: Names) -> dict[Any, str]:
    """Return the paths of parameters by their numbers in a state."""
    counts = [len(group["params"]) for group in groups]
    if names.is_grouped and counts != [*map(len, names.groups)]:
        raise ValueError(
            f"from_torch: names has groups of {', '.join(map(str, map(len, names.groups)))}, and "
            f"the state of {', '.join(map(str, counts))} parameters; give one path for each"
        )
    if len(names.flat) != sum(counts):
        raise ValueError(
            f"from_torch: names has {len(names.flat)} paths, and the state {sum(counts)} "
            f"parameters; give one path for each, in their order there"
        )
    numbers = [number for group in groups for number in group["params"]]
    return dict(zip(numbers, names.flat, strict=True))


def _read(row: TorchRow, key: str, fields: Mapping[str, Any]) -> Read:
    """Return what torch keeps of a parameter, as arrays of NumPy."""
    found = {name: _array(x) for name, x in fields.items() if x is not None}
    if not row.counts or not found:
        return Read(min(len(found), 1), found)  # one step, if any: the first is another one
    if "step" not in found:
        raise ValueError(
            f"from_torch: the state of {key!r} has no 'step', which torch's {row.peer} keeps; it "
            f"has {', '.join(found)}: give the optimizer that it is of"
        )
    steps = found.pop("step")
    number = steps.item() if steps.size == 1 and steps.dtype.kind in "iuf" else -1
    if not 0 <= number < 2**63 or number != int(number):
        raise ValueError(
            f"from_torch: 'step' of {key!r} must be a number of steps, got {described(steps)}"
        )
    taken = int(number)
    return Read(taken, {name: x for name, x in found.items() if name not in row.derived})


def _check_derived(
    one: Opened, key: str, fields: Mapping[str, Any], values: Mapping[str, Any], taken: int
) -> None:
    """Raise unless what follows from hyperparameters is what these make it."""
    row = _row(one)
    if not row.derived or not fields:
        return
    numbers = one.numbers({name: values[name] for name in one.present()}, taken)
    for name, make in row.derived.items():
        found = fields.get(name)
        if found is not None and not np.allclose(_array(found), make(numbers), rtol=1e-5, atol=0):
            raise ValueError(
                f"from_torch: {name!r} of {key!r} is {float(_array(found)):.6g}, and the options "
                f"make it {make(numbers):.6g}: they were changed since the last step, and torch's "
                f"{row.peer} follows one step later; take that step there before"
            )


def _array(x: Any) -> Any:
    """Return a tensor, or a number, as an array of NumPy, which has no bfloat16 of its own."""
    if arrays.library(x) == "torch" and str(x.dtype) == "torch.bfloat16":
        x = x.float()
    return np.asarray(x if arrays.library(x) is None else arrays.to_numpy(x))
