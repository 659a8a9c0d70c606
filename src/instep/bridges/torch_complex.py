"""Complex parameters in PyTorch: their parts are numbers of their own, as with complex="pairs"."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from instep import arrays
from instep.bridges.opened import Opened


def taken_apart(one: Opened, key: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what torch keeps of a parameter, complex numbers as pairs, or raise."""
    if not any(np.iscomplexobj(x) for x in fields.values()):
        return dict(fields)
    if one.optimizer.complex == "pairs":
        return {k: arrays.as_parts(x) if np.iscomplexobj(x) else x for k, x in fields.items()}
    _check_linear(one, key)
    return dict(fields)


def like_parameter(one: Opened, array: Any) -> Any:
    """Return an array of the shape that state of a parameter has."""
    if one.optimizer.complex == "pairs" and arrays.is_complex(array):
        return np.broadcast_to(np.float64(0), (*array.shape, 2))
    return array


def put_together(one: Opened, key: str, fields: Mapping[str, Any], array: Any) -> dict[str, Any]:
    """Return what torch keeps of a parameter, pairs as complex numbers, or raise."""
    if one.optimizer.complex == "pairs":
        if array is None and any(np.shape(x)[-1:] == (2,) for x in fields.values()):
            raise ValueError(
                f"{one.call}: the state of {key!r} may be of complex numbers or of pairs of real "
                f"ones, with complex='pairs'; give names as a dict of them to the parameters"
            )
        if array is not None and arrays.is_complex(array):
            return {k: arrays.from_parts(x) if np.ndim(x) else x for k, x in fields.items()}
    elif any(np.iscomplexobj(x) for x in fields.values()):
        _check_linear(one, key)
    return dict(fields)


def _check_linear(one: Opened, key: str) -> None:
    """Raise if a rule takes moduli, where torch takes parts."""
    if one.rule.real_slots or one.rule.positive_slots:
        raise ValueError(
            f"{one.call}: {key!r} is complex, and PyTorch takes real and imaginary parts as "
            f"numbers of their own; make the optimizer with complex='pairs'"
        )
