"""State that is to fit other parameters: some are gone, and some have grown or were cut."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from instep import arrays
from instep.hyperparameters import described
from instep.interrupts import at_once
from instep.saving import Saving


class Adjusting(Saving):
    """A stateful rule whose state can be adjusted to parameters that have changed."""

    def forget(self, which: str | Iterable[str]) -> tuple[str, ...]:
        """Forget the state of parameters, which begin anew if they are stepped again.

        For those that are gone, or have another meaning now: their state takes memory, and is
        saved, as long as it is not forgotten. `explain` names those that were not stepped for long.

        Parameters
        ----------
        which
            A pattern of paths, as in the module `fnmatch`; or paths, which are no patterns.

        Returns
        -------
        The paths of those that were forgotten.

        Raises
        ------
        TypeError, ValueError
            If something else is given, or if there is no state of what is named.

        Examples
        --------
        >>> import numpy as np
        >>> from instep import Adam
        >>> optimizer = Adam()
        >>> params = {"old/w": np.ones(2), "new/w": np.ones(2)}
        >>> optimizer.update(params, {"old/w": np.ones(2), "new/w": np.ones(2)})["new/w"].shape
        (2,)
        >>> optimizer.forget("old/*")
        ('old/w',)
        """
        with self._exclusive("forget"):
            self._check_ready("forget")
            self._settle()
            state = self._state
            gone = self._named("forget", which)
            left = {key: leaf for key, leaf in state.leaves.items() if key not in gone}
            loaded = {key: taken for key, taken in state.loaded.items() if key not in gone}
            # Without parameters there is nothing of which rules remember numbers, but of calls.
            lasting = {p + name for p, rule in self.parts.items() for name in rule.lasting_numbers}
            numbers = {k: x for k, x in state.numbers.items() if left or k in lasting}
            self._replace(leaves=left, loaded=loaded, numbers=numbers)
        return tuple(gone)

    def _named(self, call: str, which: Any) -> dict[str, None]:
        """Return the paths that are meant, or raise."""
        known = self._state.leaves
        if isinstance(which, str):
            found = [key for key in known if fnmatchcase(key, which)]
            missing = [] if found else [which]
        else:
            found = [*which] if isinstance(which, Iterable) else [which]
            if not all(isinstance(key, str) for key in found):
                raise TypeError(
                    f"{self.name}.{call}: give a pattern of paths, or paths, got {described(which)}"
                )
            missing = [key for key in found if key not in known]
        if missing:
            raise ValueError(f"{self.name}.{call}: {self._unknown_path(missing[0])}")
        return dict.fromkeys(found)

    def _unknown_path(self, path: str) -> str:
        known = [*self._state.leaves]
        there = ", ".join(map(repr, known[:10])) + (", ..." if known[10:] else "")
        return f"there is no state of {path!r}; there is that of {there or 'no parameter'}"

    def _replace(self, **values: Any) -> None:
        """Give the state other values, at once; the next step makes a new plan."""
        state = self._state
        new = {**values, "plan": None, "plans": {}, "last": None, "changes": state.changes + 1}
        at_once([partial(state.__dict__.update, new)])

    def resize(self, path: str, to: Any) -> None:
        """Carry the state of a parameter along that has grown, or was cut.

        Call it before the next `update`, which is given the new parameter under the old path.

        Parameters
        ----------
        path
            The path of the parameter, as `explain` shows it.
        to
            An index, with which each array of state is taken as ``old[index]``: numbers or booleans
            of rows, a slice, or a tuple for several axes. Or a function from an old array to the
            new one, for what is interpolated, or begins at zero. It is given arrays of NumPy of the
            shape of the parameter; those of complex parameters that are ``"pairs"`` have one more
            axis, of real and imaginary parts.

        Raises
        ------
        TypeError, ValueError
            If there is no state of this path; if state has not the shape of the parameter and
            cannot be carried along, as that of matrices; or if the function returns something else
            than arrays of one shape. Nothing has changed then.

        Notes
        -----
        The number of steps, and numbers that rules remember, stay. State in 8 bits is decoded, and
        encoded again at the next step. Of ``master=True``, the part that a parameter of 16 bits
        cannot hold comes along with an index, and begins anew with a function.

        Examples
        --------
        >>> import numpy as np
        >>> from instep import Momentum
        >>> optimizer, points = Momentum(lr=1.0), np.zeros(3)
        >>> points = optimizer.update({"points": points}, {"points": np.array([1.0, 2.0, 3.0])})
        >>> index = [0, 2, 2]  # one is cut, one is split
        >>> optimizer.resize("points", index)
        >>> new = {"points": points["points"][index]}
        >>> optimizer.update(new, {"points": np.zeros(3)})
        {'points': array([-1.9, -5.7, -5.7])}
        """
        from instep.checkpoint.resizing import resized

        with self._exclusive("resize"):
            self._check_ready("resize")
            self._settle()
            leaves = self._state.leaves
            if path not in leaves:
                raise ValueError(f"{self.name}.resize: {self._unknown_path(path)}")
            call, is_index = f"{self.name}.resize: {path!r}", not callable(to)
            new = resized(call, self.parts, leaves[path], _as_function(to), is_index=is_index)
            self._replace(leaves={**leaves, path: new})


def _as_function(to: Any) -> Callable[[Any], Any]:
    if callable(to):
        return to  # type: ignore[no-any-return]
    index = tuple(map(_on_host, to)) if isinstance(to, tuple) else _on_host(to)
    return lambda old: old[index]


def _on_host(index: Any) -> Any:
    return index if arrays.library(index) in (None, "numpy") else arrays.to_numpy(index)
