"""What stands in for parameters when they are used: returned, or put in their place for a while."""

import sys
from collections.abc import Generator
from functools import partial
from typing import Any

from instep import arrays
from instep.adjusting import Adjusting
from instep.interrupts import Block, Call, block, require_frames, together
from instep.tree import Tree


class Answering(Adjusting):
    """A stateful rule whose answers can be asked for."""

    def answer(self, params: Tree, *, which: int | None = None) -> Tree:
        """Return what to use in the place of `params`, as a tree of new arrays.

        That is a mean of the path of the parameters where a rule keeps one, `average` in a chain or
        `ScheduleFreeAdamW`, and the parameters themselves where none does, or where no step has
        touched them.

        Parameters
        ----------
        params
            The tree of parameters. They are not changed.
        which
            Number of the rule with an answer among those of a chain, from 0, where there are
            several.

        Raises
        ------
        TypeError, ValueError
            If there is no such answer, or if `params` has other shapes.
        """
        from instep.averages import answer

        if "torch._dynamo" in sys.modules and arrays.is_compiled():
            found: Tree = arrays.left_by_compilers(self.answer)(params, which=which)
            return found
        with self._exclusive("answer"):
            self._check_ready("answer")
            self._settle()
            answered: Tree = answer(self._owner, self._state, params, which)
            return answered

    #: Names that other libraries give to the same.
    averaged = answer
    eval_params = answer

    def answer_in_place(self, params: Tree, *, which: int | None = None) -> Block[Tree]:
        """Put the answer in the place of `params` for a ``with`` block, then put them back.

        ::

            with optimizer.answer_in_place(params) as params:
                validate(params)

        In the block `update`, `state_dict` and copies of the optimizer are errors. It needs memory
        for one copy of the parameters, which come back as they were, bit for bit.

        Parameters
        ----------
        params, which
            As for `answer`.

        Returns
        -------
        A context manager, which gives the tree, as `update` returns it. Where arrays cannot be
        written by design (JAX), the answer is in the containers of the tree, and the parameters are
        put back there.

        Raises
        ------
        TypeError, ValueError
            As `answer` does, and if parameters cannot be written.
        RuntimeError
            If the answer is in their place already.
        """
        return block(self._answering(params, which))

    def _answering(self, params: Any, which: int | None) -> Generator[Any, Any, None]:
        from instep.averages import Exchange

        put_back: Call = int  # nothing, so far
        try:
            try:
                with self._exclusive("answer_in_place"):
                    self._check_ready("answer_in_place")
                    self._settle()
                    exchange = Exchange(self._owner, self._state, params, which)
                    ready = partial(self.__dict__.update, {"_is_answering": False})
                    put_back = together([*exchange.put_back(), ready])
                    self._is_answering = True
                    if self._state.plan is not None:
                        self._state.plan.look_again()
                require_frames()
                yield exchange.put()
            finally:
                put_back()
        finally:
            put_back()  # where an exception came before that
        while True:
            yield 0
