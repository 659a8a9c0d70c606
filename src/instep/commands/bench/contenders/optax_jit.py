"""optax, compiled by XLA, with parameters and state donated."""

import importlib
from collections.abc import Callable
from typing import Any

from instep.commands.bench.cases import CHAIN, Case, trees
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender

#: Tensors beyond which XLA compiles for minutes.
MOST_TENSORS = 500

#: Optimizer -> its transformation, given optax.
TRANSFORMATIONS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda optax: optax.sgd(0.01),
    "Momentum": lambda optax: optax.sgd(0.01, momentum=0.9),
    "Nesterov": lambda optax: optax.sgd(0.01, momentum=0.9, nesterov=True),
    "AdaGrad": lambda optax: optax.adagrad(0.01),
    "RMSProp": lambda optax: optax.rmsprop(0.01),
    "Adam": lambda optax: optax.adam(0.001),
    "AdamW": lambda optax: optax.adamw(0.001),
    "AMSGrad": lambda optax: optax.amsgrad(0.001),
    "AdaMax": lambda optax: optax.adamax(0.001),
    "AdaBelief": lambda optax: optax.adabelief(0.001),
    "NAdam": lambda optax: optax.nadam(0.001),
    "RAdam": lambda optax: optax.radam(0.001),
    "Yogi": lambda optax: optax.yogi(0.001),
    "Lion": lambda optax: optax.lion(0.0001),
    "LAMB": lambda optax: optax.lamb(0.001),
    "LARS": lambda optax: optax.lars(0.001),
    CHAIN: lambda optax: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.001)),
}


class Optax(Contender):
    """A jitted step: update, apply, and for the chain the average."""

    name = "optax"
    package = "optax"
    copies = 6

    def lacks(self, case: Case) -> str | None:
        if case.optimizer not in TRANSFORMATIONS:
            return f"optax is not set up for {case.optimizer} here"
        if case.dtype in ("float16", "bfloat16"):
            return f"optax keeps the state of {case.dtype} parameters in {case.dtype}"
        if len(case.shapes) > MOST_TENSORS:
            return f"XLA takes minutes to compile {len(case.shapes):,} tensors"
        return None

    def prepare(self, case: Case) -> Step:
        jax, optax = importlib.import_module("jax"), importlib.import_module("optax")
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", case.dtype in ("float64", "complex128"))
        transformation = TRANSFORMATIONS[case.optimizer](optax)
        averaged = case.optimizer == CHAIN

        def step(params: Any, state: Any, average: Any, grads: Any) -> Any:
            updates, state = transformation.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            if averaged:
                average = optax.incremental_update(params, average, 0.001)
            return params, state, average

        compiled = jax.jit(step, donate_argnums=(0, 1, 2))
        params, grads = (jax.tree.map(jax.numpy.array, tree) for tree in trees(case))
        average = jax.tree.map(jax.numpy.array, params) if averaged else None
        # Not to donate one buffer twice.
        carried = [params, jax.tree.map(jax.numpy.array, transformation.init(params)), average]

        def run() -> None:
            carried[:] = compiled(*carried, grads)
            jax.block_until_ready(carried)

        return run
