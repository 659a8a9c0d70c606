"""L-BFGS: quasi-Newton steps from the last pairs of steps and changes of gradients."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from instep.minimization.bounds import Bounds, as_hyperparameters, check, check_parameters
from instep.minimization.descent import Descent, Method
from instep.minimization.line_search import LineSearch, StrongWolfe, description
from instep.minimization.objective import Objective
from instep.minimization.passes import passes, passes_within
from instep.minimization.quasi_newton import Free, Within
from instep.optimizer import Optimizer

#: Pairs at most, without bounds, and within them: passes read all of them, and within bounds they
#: take all their products.
MOST_PAIRS, MOST_PAIRS_WITHIN = 100, 20


@dataclass(frozen=True)
class LBFGS(Method):
    r"""Limited-memory BFGS (Nocedal 1980; Liu and Nocedal 1989).

    With the steps :math:`s_i = w_{i+1} - w_i` and changes :math:`y_i = g_{i+1} - g_i` of the last
    `history` points, :math:`\rho_i = 1 / \langle s_i, y_i \rangle` and
    :math:`\gamma = \langle s_k, y_k \rangle / \langle y_k, y_k \rangle` of the newest pair,

    .. math::
        H_{i+1} &= (I - \rho_i s_i y_i^\top) H_i (I - \rho_i y_i s_i^\top) + \rho_i s_i s_i^\top \\
        w &\leftarrow w - \alpha H g

    from :math:`\gamma I` on, where a line search gives :math:`\alpha`. Inner products are over all
    arrays of the tree; of complex numbers, the real part :math:`\mathrm{Re} \langle x, y \rangle`.

    Parameters
    ----------
    history
        Number of pairs, up to 100, and within bounds up to 20. The state is `history + 1` points
        and as many gradients.
    lower, upper
        Bounds of the parameters: numbers, arrays of the shape of a parameter, or dicts of these by
        patterns of paths, as in ``lower={"density": 0.0}``. Infinite ones, and None, are none.
    line_search
        What gives :math:`\alpha`: `StrongWolfe`, or `Backtracking`.
    first_length
        Euclidean length of the first step that is tried.
    engine, threads, complex, frozen
        As for `Optimizer`.

    Notes
    -----
    All pairs are read once for their products and once more for the step, whatever their number;
    a vector of the state is written twice a step. Inner products are canonical sums, so that the
    path is the same on all engines, bit for bit. Where no step along the direction is found, the
    pairs are forgotten, and the next direction is that of steepest descent.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import LBFGS, minimize
    >>> w = np.array([3.0, -4.0])
    >>> scales = np.array([1.0, 100.0])
    >>> result = minimize(lambda w: (0.5 * (scales * w**2).sum(), scales * w), w, LBFGS())
    >>> result.success, bool(abs(w).max() < 1e-6)
    (True, True)
    """

    adopted = "history", "first_length", "line_search"

    history: int = 10
    lower: Bounds = None
    upper: Bounds = None
    line_search: LineSearch = field(default_factory=StrongWolfe)
    first_length: float = 1.0

    def __post_init__(self) -> None:
        history: Any = self.history
        most = MOST_PAIRS_WITHIN if self._is_bounded else MOST_PAIRS
        if isinstance(history, bool) or not isinstance(history, int) or not 1 <= history <= most:
            raise ValueError(
                f"LBFGS: history must be an integer >= 1, and at most {most}, got {history!r}"
            )
        if not 0 < self.first_length < math.inf:
            raise ValueError(f"LBFGS: first_length must be > 0, got {self.first_length!r}")
        check(self.name, self.lower, self.upper)
        super().__post_init__()

    @property
    def made_with(self) -> dict[str, Any]:
        """How it was made, but for what its rules hold."""
        numbers = {"history": self.history, "first_length": self.first_length}
        search = description(self.line_search)
        return {**numbers, "bounds": self._is_bounded, "line_search": search}

    @property
    def _is_bounded(self) -> bool:
        return not (self.lower is None and self.upper is None)

    def holder(self) -> Optimizer:
        """Return a rule that holds the bounds, and the frozen leaves."""
        if not self._is_bounded:
            return passes(1).back(**self.settings)
        return passes_within(1).enter(**self._settings_within)

    def held_by(self, holder: Any) -> dict[str, Any]:
        """Return the bounds that a rule holds."""
        if not self._is_bounded:
            return {}
        own: dict[str, Any] = {"lower": holder.lower, "upper": holder.upper}
        for name, everywhere in own.items():
            some = {key: its[name] for key, its in holder.overrides.items() if name in its}
            own[name] = some or everywhere
        return own

    def descent(self, objective: Objective, params: Any) -> Descent:
        """Return a run of the method, from these parameters on."""
        given = objective, params, self.history, self.first_length
        if not self._is_bounded:
            return Free(*given, self.settings, self.line_search)
        if self.complex == "modulus":
            own: dict[str, Bounds] = {"lower": self.lower, "upper": self.upper}
            check_parameters(self.name, params, own, self.frozen, 'lower={"density": 0.0}')
        return Within(*given, self._settings_within, self.line_search)

    @property
    def _settings_within(self) -> dict[str, Any]:
        """What passes within bounds are made with.

        Where complex numbers have no bounds, pairs have none either, and the same inner products.
        """
        own = as_hyperparameters(self.lower, self.upper)
        return {**self.settings, "complex": "pairs", **own}

    def passes(self) -> Mapping[str, Optimizer]:
        """Return what a step runs over the trees, by name, where its first trial is taken."""
        if not self._is_bounded:
            found = passes(self.history)
            kinds = {"advance": found.advance, "products": found.products}
            return {name: kind(**self.settings) for name, kind in kinds.items()}
        within = passes_within(self.history)
        kinds = {"advance": within.advance, "along": within.along, "products": within.products}
        return {name: kind(**self._settings_within) for name, kind in kinds.items()}
