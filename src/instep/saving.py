"""State that leaves an optimizer and comes back: as a dict, and in files."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

from instep.interrupts import at_once
from instep.stateful import Stateful


class Saving(Stateful):
    """A stateful rule whose state can be saved and loaded."""

    def state_dict(self) -> dict[str, Any]:
        """Return step number, hyperparameters, settings and copies of all state, as a plain dict.

        Of the settings it has `overrides`, `frozen` and `seed`. Schedules of the kit are copied;
        functions of the user are the very objects.

        Examples
        --------
        >>> import numpy as np
        >>> from instep import Momentum
        >>> optimizer = Momentum(lr=0.5)
        >>> params = optimizer.update({"w": np.zeros(2)}, {"w": np.array([1.0, 2.0])})
        >>> state = optimizer.state_dict()
        >>> state["t"], state["hyperparameters"]["lr"]
        (1, 0.5)
        >>> Momentum().load_state_dict(state)
        <Momentum(lr=0.5, momentum=0.9, dampening=0.0, lr_in_velocity=True) at t=1>
        """
        from instep.checkpoint import state_dict

        with self._exclusive("state_dict"):
            self._check_ready("state_dict")
            self._settle()
            settings = {name: self.__dict__[name] for name in ("overrides", "frozen", "seed")}
            return state_dict(self.name, self.parts, self._state, settings)

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> Self:
        """Take over what `state_dict` returned; the dict is neither changed nor kept.

        It must be of an optimizer of the same class, and of a chain of the same parts.
        Everything is checked before anything is changed.

        Parameters
        ----------
        state
            What `state_dict` returned. Its numbers replace those that the optimizer has. A schedule
            of the kit replaces a number, or a schedule of the same class, whose arguments it
            replaces. A function must be there already, by its name, and stays the object that it
            is. `overrides` and `frozen` are taken over where the optimizer has none, and must
            otherwise be the same.
        strict
            Whether what does not go together is an error, and parameters that were renamed, at
            the first `update`. If not, the optimizer keeps the settings that it has, and
            parameters of new names begin anew.

        Raises
        ------
        TypeError, ValueError
            If it is no such state, or does not go together with the optimizer.

        Examples
        --------
        >>> from instep import SGD
        >>> from instep.schedules import Cosine, Linear
        >>> state = SGD(lr=Cosine(0.5, steps=100), frozen=("b",)).state_dict()
        >>> SGD().load_state_dict(state)
        SGD(lr=Cosine(start=0.5, steps=100, end=0.0, power=1.0), frozen=('b',))
        >>> SGD(lr=Linear(0.5, 0.0, steps=100)).load_state_dict(state, strict=False)
        SGD(lr=Linear(start=0.5, end=0.0, steps=100), frozen=('b',))
        """
        with self._exclusive("load_state_dict"):
            self._take_over(f"{self.name}.load_state_dict", state, strict)
        return self

    def _take_over(self, call: str, state: Mapping[str, Any], strict: bool) -> None:
        from instep.checkpoint import read_state_dict

        new = read_state_dict(call, self._owner, state, is_strict=strict)
        self._settle()
        at_once(
            [
                *(partial(rule.__dict__.update, own) for rule, own in new.hyperparameters),
                *new.calls,
                partial(self.__dict__.update, new.settings | {"_state": new.state}),
            ]
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `state_dict` returns into a file; the parameters are not in it.

        Parameters
        ----------
        path
            Its name. One that ends in ``.npz``, or has no suffix, becomes an archive of NumPy; one
            that ends in ``.safetensors`` a file of that format (``pip install
            'instep[safetensors]'``). A file of that name is replaced when the new one is complete.

        Raises
        ------
        ValueError
            If the name has another suffix.
        OSError
            If the file cannot be written. What was there is as it was.

        Notes
        -----
        Nothing is pickled. The file holds schedules of the kit, and of functions their names.

        Examples
        --------
        >>> import tempfile
        >>> from instep import SGD
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     SGD(lr=0.5).save(f"{folder}/run.npz")
        ...     SGD().load(f"{folder}/run.npz")
        SGD(lr=0.5)
        """
        from instep.checkpoint import save

        save(self.name, self.state_dict(), path)

    def load(self, path: str | os.PathLike[str], *, strict: bool = True) -> Self:
        """Take over what `save` has written.

        Parameters
        ----------
        path
            Name of the file; what is in it tells of which format it is.
        strict
            As for `load_state_dict`.

        Raises
        ------
        ValueError
            If it is another kind of file, or damaged, or does not go together with the optimizer.
            Nothing has changed then.
        OSError
            If it cannot be read.
        """
        from instep.checkpoint import load

        call = f"{self.name}.load: {os.fspath(path)!r}"
        state = load(self.name, path)
        with self._exclusive("load"):
            try:
                self._take_over(call, state, strict)
            except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
                text = str(error)
                raise ValueError(text if text.startswith(call) else f"{call}: {text}") from error
        return self
