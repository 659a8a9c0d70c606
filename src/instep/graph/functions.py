"""What the namespaces of rules have in common: that of a trace, and those of arrays."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from instep import numerics
from instep.graph.errors import refuse_number
from instep.graph.host_expressions import FUNCTIONS, OPERATORS


class Functions(ABC):
    """The functions of an array namespace `xp` that a rule is called with.

    Those of hyperparameters and numbers alone are host expressions, as their arithmetic is. Those
    that libraries disagree on are written once, in `numerics`.
    """

    _rule: str  # its name, in messages

    @staticmethod
    @abstractmethod
    def _is_host(x: Any) -> bool:
        """Return whether `x` is a hyperparameter or a number."""

    @abstractmethod
    def _on_host(self, name: str, values: Any, keywords: Mapping[str, Any]) -> Any:
        """Return what a function makes of hyperparameters and numbers alone."""

    @abstractmethod
    def _arrays(self, *values: Any) -> Sequence[Any]:
        """Return the values as arrays; a number takes the widest dtype of the arrays beside it."""

    @abstractmethod
    def split(self, x: Any) -> tuple[Any, Any] | None:
        """Return real and imaginary parts of an array of complex numbers; of what is none, None."""

    @abstractmethod
    def join(self, re: Any, im: Any) -> Any:
        """Return the array of complex numbers with these parts."""

    @abstractmethod
    def _operation(self, name: str) -> Any:
        """Return what any other function does with arrays."""

    def __getattr__(self, name: str) -> Any:
        canonical = name in numerics.CANONICAL
        operation = self._canonical(name) if canonical else self._operation(name)
        if not callable(operation) or isinstance(operation, type):
            return operation  # a dtype or a constant

        def function(*values: Any, **keywords: Any) -> Any:
            if name in FUNCTIONS or name in OPERATORS:
                given = [x for x in (*values, *keywords.values()) if x is not None]
                if given and all(map(self._is_host, given)):
                    return self._on_host(name, values, keywords)
            return operation(*values, **keywords)

        return function

    def conj(self, x: Any) -> Any:
        """Return the complex conjugate: of a real number, itself."""
        return x

    def real(self, x: Any) -> Any:
        """Return the real part: of a real number, itself."""
        return x

    def imag(self, x: Any) -> Any:
        """Return the imaginary part: of a real number, zero."""
        return 0.0 if self._is_host(x) else self.zeros_like(x)

    def constrained(self, x: Any) -> Any:
        """Return `x` in the sets where transforms after a rule keep parameters: itself, if none."""
        return x

    def clip_abs(self, x: Any, limit: Any) -> Any:
        """Return `x` with a magnitude of at most `limit`, and its sign; NaN stays NaN."""
        return self.clip(x, -limit, limit)

    def _canonical(self, name: str) -> Callable[..., Any]:
        """Return a function of `numerics`, which is given arrays."""
        function = numerics.CANONICAL[name]

        def canonical(*values: Any, **keywords: Any) -> Any:
            if name in numerics.NORMS:
                self._refuse_numbers(name, *values)
            given = [x for x in (*values, *keywords.values()) if x is not None]
            arrays = iter(self._arrays(*given))
            values = tuple(None if x is None else next(arrays) for x in values)
            keywords = {k: None if x is None else next(arrays) for k, x in keywords.items()}
            return function(self, *values, **keywords)

        return canonical

    def _refuse_numbers(self, name: str, *values: Any) -> None:
        if any(map(self._is_host, values)):
            raise refuse_number(self._rule, name)
