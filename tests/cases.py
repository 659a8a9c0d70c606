"""The optimizers that the tests run over: one row each, the only place to add one."""

import math
from dataclasses import dataclass, field

import pytest
import textbook

from instep import (
    ADOPT,
    ASGD,
    COCOB,
    LAMB,
    LARS,
    MARS,
    SGD,
    SOAP,
    AdaBelief,
    AdaBound,
    AdaDelta,
    Adafactor,
    AdaGrad,
    Adam,
    AdaMax,
    AdamMini,
    AdamW,
    Adan,
    AdEMAMix,
    AMSGrad,
    BarzilaiBorwein,
    DAdaptAdamW,
    DoG,
    DoWG,
    Fromage,
    LaProp,
    Lion,
    Momentum,
    MoMo,
    MoMoAdam,
    Muon,
    NAdam,
    Nesterov,
    NovoGrad,
    OptimisticGD,
    Optimizer,
    PolyakSGD,
    Prodigy,
    RAdam,
    RMSProp,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Shampoo,
    Signum,
    StableAdamW,
    Tiger,
    Yogi,
)
from instep.hyperparameters import DecayRate, Epsilon, NonNegative, Positive


class UserSignum(Optimizer):
    """Signum (Bernstein et al. 2018): a rule as a user writes it."""

    lr: float = 0.001
    beta: float = 0.9

    slots = ("m",)
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta * s.m + (1 - h.beta) * g
        return w - h.lr * xp.sign(m), {"m": m}


class ClippedAMSGrad(Optimizer):
    """AMSGrad on clipped gradients: a user's rule with three slots and `xp.where`."""

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.99
    eps: Epsilon = 1e-8
    bound: Positive = 1.0

    slots = ("m", "v", "largest")
    positive_slots = ("v", "largest")

    @staticmethod
    def rule(xp, w, g, s, h):
        g = xp.where(g > h.bound, h.bound, xp.where(g < -h.bound, -h.bound, g))
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * (g * g)
        largest = xp.maximum(s.largest, v)
        return w - h.lr * m / (xp.sqrt(largest) + h.eps), {"m": m, "v": v, "largest": largest}


@dataclass(frozen=True)
class Case:
    """An optimizer class, the keywords it is made with, and its textbook loop.

    `descent` are keywords with which it comes down a parabola in a few hundred steps. An
    `elementwise` rule computes each element from the same element of every array; one that is not
    `exact` takes functions on whole arrays from the array library, which libraries round each in
    their way. One without `moduli` has no meaning for complex numbers as such. One that is
    `over_tree` computes each tensor from all of them. After more than `steps` the bound on the
    errors of rounding that the textbook's arithmetic has says nothing; until then it is below
    `slack` units in the last place of the way that elements go.
    """

    optimizer: type[Optimizer]
    textbook: object
    keywords: dict = field(default_factory=dict)
    descent: dict = field(default_factory=lambda: {"lr": 0.05})
    moves_at_rate_zero: bool = False
    elementwise: bool = True
    exact: bool = True
    moduli: bool = True
    over_tree: bool = False
    steps: int = 50
    slack: float = 3000.0

    def __str__(self):
        arguments = ", ".join(f"{name}={value}" for name, value in self.keywords.items())
        return f"{self.optimizer.__name__}({arguments})"

    def make(self, **others):
        """Return a new optimizer; `others` add to the keywords, or replace them."""
        return self.optimizer(**{**self.keywords, **others})

    def follow(self, w, gradients, **others):
        """Return the path of the textbook loop: `w` after every step."""
        return list(self.textbook(w, gradients, **{**self.keywords, **others}))


#: What cases have in common whose rates are made of inner products: errors of the parameters are in
#: them, and the parameters of the next step have errors of the rates.
PRODUCTS = {"elementwise": False, "over_tree": True, "steps": 8, "slack": 1e6}

CASES = [
    Case(SGD, textbook.sgd),
    Case(Momentum, textbook.momentum),
    Case(Momentum, textbook.momentum, {"dampening": 0.25}),
    Case(Momentum, textbook.momentum, {"lr_in_velocity": False, "dampening": 0.25}),
    Case(Nesterov, textbook.nesterov),
    Case(Nesterov, textbook.nesterov, {"lr_in_velocity": False}),
    Case(AdaGrad, textbook.adagrad),
    Case(AdaGrad, textbook.adagrad, {"eps_in_sqrt": True, "initial_accumulator_value": 0.1}),
    Case(RMSProp, textbook.rmsprop),
    Case(RMSProp, textbook.rmsprop, {"centered": True}),
    Case(RMSProp, textbook.rmsprop, {"momentum": 0.9}),
    Case(RMSProp, textbook.rmsprop, {"decay": 0.99, "centered": True, "momentum": 0.5}),
    Case(RMSProp, textbook.rmsprop, {"momentum": 0.9, "nesterov": True}),
    Case(RMSProp, textbook.rmsprop, {"eps_in_sqrt": True, "initial_accumulator_value": 0.1}),
    Case(
        RMSProp,
        textbook.rmsprop,
        {"eps_in_sqrt": True, "centered": True, "eps": 1e-3, "momentum": 0.5},
    ),
    Case(RMSProp, textbook.rmsprop, {"momentum": 0.9, "lr_in_velocity": False}),
    Case(
        RMSProp,
        textbook.rmsprop,
        {"momentum": 0.5, "lr_in_velocity": False, "nesterov": True},
    ),
    Case(Adam, textbook.adam),
    Case(Adam, textbook.adam, {"amsgrad": True, "beta2": 0.9}),
    Case(Adam, textbook.adam, {"beta1": 0.0, "beta2": 0.5, "eps": 1e-3}),
    Case(Adam, textbook.adam, {"form": "epsilon_hat", "eps": 1e-3}),
    Case(Adam, textbook.adam, {"form": "epsilon_hat", "amsgrad": True, "beta2": 0.9}),
    Case(AdamW, textbook.adamw),
    Case(AdamW, textbook.adamw, {"weight_decay": 0.5, "lr": 0.1}),
    Case(AdamW, textbook.adamw, {"amsgrad": True, "beta2": 0.9}),
    Case(AdamW, textbook.adamw, {"form": "epsilon_hat", "weight_decay": 0.5, "lr": 0.1}),
    Case(AdaDelta, textbook.adadelta, descent={"lr": 1.0, "eps": 1e-2}),
    Case(AdaDelta, textbook.adadelta, {"rho": 0.5, "eps": 1e-3}, descent={"lr": 1.0}),
    Case(AMSGrad, textbook.amsgrad),
    Case(AMSGrad, textbook.amsgrad, {"form": "epsilon_hat", "beta2": 0.9, "eps": 1e-3}),
    Case(AMSGrad, textbook.amsgrad, {"bias_correction": "before", "beta2": 0.9}),
    Case(AMSGrad, textbook.amsgrad, {"bias_correction": "none", "beta2": 0.9}),
    Case(NAdam, textbook.nadam),
    Case(NAdam, textbook.nadam, {"psi": 1.0, "beta1": 0.5}),
    Case(NAdam, textbook.nadam, {"amsgrad": True, "beta2": 0.9}),
    Case(NAdam, textbook.nadam, {"psi": math.inf, "beta2": 0.9}),
    Case(RAdam, textbook.radam),
    Case(RAdam, textbook.radam, {"beta2": 0.9}),
    Case(RAdam, textbook.radam, {"beta2": 0.9, "threshold": 4.0}),
    Case(RAdam, textbook.radam, {"beta2": 0.9, "form": "epsilon", "eps": 1e-3}),
    Case(AdaMax, textbook.adamax),
    Case(AdaMax, textbook.adamax, {"eps_in_max": True, "eps": 1e-3}),
    Case(AdaBelief, textbook.adabelief),
    Case(AdaBelief, textbook.adabelief, {"beta2": 0.5, "eps": 1e-3}),
    Case(Yogi, textbook.yogi),
    Case(Yogi, textbook.yogi, {"bias_correction": False, "beta2": 0.9}),
    Case(Lion, textbook.lion),
    Case(Lion, textbook.lion, {"beta1": 0.5, "beta2": 0.75, "weight_decay": 0.5}),
    Case(Adan, textbook.adan),
    Case(Adan, textbook.adan, {"weight_decay": 0.5, "beta2": 0.5}),
    Case(Rprop, textbook.rprop, moves_at_rate_zero=True, moduli=False),
    Case(
        Rprop,
        textbook.rprop,
        {"shrink": 0.25, "largest": 0.5},
        moves_at_rate_zero=True,
        moduli=False,
    ),
    Case(Signum, textbook.signum),
    Case(LARS, textbook.lars, descent={"lr": 5.0}, elementwise=False),
    Case(
        LARS,
        textbook.lars,
        {"weight_decay": 0.1, "momentum": 0.5},
        descent={"lr": 5.0},
        elementwise=False,
    ),
    Case(LAMB, textbook.lamb, elementwise=False),
    Case(LAMB, textbook.lamb, {"weight_decay": 0.0, "beta2": 0.9}, elementwise=False),
    Case(ScheduleFreeAdamW, textbook.schedule_free_adamw),
    Case(ScheduleFreeAdamW, textbook.schedule_free_adamw, {"weight_decay": 0.1, "r": 1.0}),
    Case(Adafactor, textbook.adafactor, elementwise=False, exact=False),
    Case(
        Adafactor,
        textbook.adafactor,
        {"d": 0.5, "relative_step": False},
        elementwise=False,
        exact=False,
    ),
    Case(
        Muon,
        textbook.muon,
        descent={"adamw_lr": 0.05},
        moves_at_rate_zero=True,
        elementwise=False,
        exact=False,
    ),
    Case(SOAP, textbook.soap, elementwise=False, exact=False),
    Case(
        SOAP,
        textbook.soap,
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "weight_decay": 0.5, "every": 3},
        elementwise=False,
        exact=False,
    ),
    Case(Shampoo, textbook.shampoo, elementwise=False, exact=False),
    Case(
        Shampoo,
        textbook.shampoo,
        {"lr": 0.1, "eps": 0.5, "every": 3},
        elementwise=False,
        exact=False,
    ),
    Case(AdEMAMix, textbook.ademamix),
    Case(
        AdEMAMix, textbook.ademamix, {"lr": 0.1, "beta3": 0.99, "alpha": 2.0, "weight_decay": 0.5}
    ),
    Case(ADOPT, textbook.adopt),
    Case(ADOPT, textbook.adopt, {"beta1": 0.5, "beta2": 0.5}),
    Case(LaProp, textbook.laprop),
    Case(LaProp, textbook.laprop, {"beta1": 0.95, "beta2": 0.5, "eps": 1e-3}),
    Case(Tiger, textbook.tiger),
    Case(Tiger, textbook.tiger, {"beta": 0.5, "weight_decay": 0.5}),
    Case(ScheduleFreeSGD, textbook.schedule_free_sgd),
    Case(ScheduleFreeSGD, textbook.schedule_free_sgd, {"weight_decay": 0.1, "r": 1.0, "beta": 0.5}),
    Case(AdaBound, textbook.adabound, moves_at_rate_zero=True),
    Case(
        AdaBound,
        textbook.adabound,
        {"final": 0.5, "gamma": 0.1, "beta2": 0.9},
        moves_at_rate_zero=True,
    ),
    Case(COCOB, textbook.cocob, descent={"lr": 1.0}),
    Case(COCOB, textbook.cocob, {"lr": 0.5, "alpha": 10.0, "eps": 1e-3}, descent={"lr": 1.0}),
    Case(OptimisticGD, textbook.optimistic_gd),
    Case(OptimisticGD, textbook.optimistic_gd, {"optimism": 0.5}),
    Case(ASGD, textbook.asgd),
    Case(ASGD, textbook.asgd, {"weight_decay": 0.1, "alpha": 0.5, "t0": 5.0}),
    Case(StableAdamW, textbook.stable_adamw, elementwise=False),
    Case(
        StableAdamW,
        textbook.stable_adamw,
        {"beta1": 0.5, "beta2": 0.999, "weight_decay": 0.5},
        elementwise=False,
    ),
    Case(MARS, textbook.mars, elementwise=False),
    Case(MARS, textbook.mars, {"gamma": 0.1, "weight_decay": 0.5}, elementwise=False),
    Case(Fromage, textbook.fromage, elementwise=False),
    Case(NovoGrad, textbook.novograd, elementwise=False),
    Case(
        NovoGrad,
        textbook.novograd,
        {"beta1": 0.5, "beta2": 0.5, "weight_decay": 0.5},
        elementwise=False,
    ),
    # As a share of 1e-6 the first steps are below the roundings of float32.
    Case(
        DoG,
        textbook.dog,
        {"movement": 0.1},
        descent={"lr": 1.0},
        elementwise=False,
        over_tree=True,
    ),
    Case(
        DoG,
        textbook.dog,
        {"lr": 0.5, "movement": 0.01, "eps": 0.5},
        descent={"lr": 1.0},
        elementwise=False,
        over_tree=True,
    ),
    # The rate grows with the distance, and with it what roundings do: from afar it grows little.
    *(
        Case(
            DoWG,
            textbook.dowg,
            keywords,
            descent={"lr": 1.0},
            elementwise=False,
            over_tree=True,
        )
        for keywords in ({"lr": 0.5, "distance": 5.0}, {"lr": 0.3, "distance": 1.0, "eps": 0.5})
    ),
    Case(PolyakSGD, textbook.polyak_sgd, descent={"lr": 1.0}, elementwise=False, over_tree=True),
    Case(
        PolyakSGD,
        textbook.polyak_sgd,
        {"lr": 0.05, "lowest": 5.0, "eps": 0.5},
        descent={"lowest": 0.0, "lr": 1.0},
        elementwise=False,
        over_tree=True,
    ),
    Case(MoMo, textbook.momo, descent={"lr": 1.0}, **PRODUCTS),
    Case(
        MoMo,
        textbook.momo,
        {"lr": 0.05, "beta": 0.5, "lowest": 5.0},
        descent={"lr": 1.0, "lowest": 0.0},
        **PRODUCTS,
    ),
    Case(MoMoAdam, textbook.momo_adam, **PRODUCTS),
    Case(
        MoMoAdam,
        textbook.momo_adam,
        {"lr": 0.5, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "lowest": 5.0},
        descent={"lr": 0.05, "lowest": 0.0},
        **PRODUCTS,
    ),
    # Its first steps, too, are below the roundings of float32.
    Case(Prodigy, textbook.prodigy, {"initial": 0.1}, descent={"lr": 1.0}, **PRODUCTS),
    Case(
        Prodigy,
        textbook.prodigy,
        {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.5, "initial": 0.01},
        descent={"lr": 1.0},
        **PRODUCTS,
    ),
    Case(AdamMini, textbook.adam_mini, elementwise=False),
    Case(
        AdamMini,
        textbook.adam_mini,
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.5, "eps": 1e-3},
        elementwise=False,
    ),
    Case(DAdaptAdamW, textbook.dadapt_adamw, {"initial": 0.1}, descent={"lr": 1.0}, **PRODUCTS),
    Case(
        DAdaptAdamW,
        textbook.dadapt_adamw,
        {"beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.5, "initial": 0.01},
        descent={"lr": 1.0},
        **PRODUCTS,
    ),
    # The learning rate is that of the first step alone.
    Case(
        BarzilaiBorwein,
        textbook.barzilai_borwein,
        moves_at_rate_zero=True,
        **PRODUCTS,
    ),
    Case(
        BarzilaiBorwein,
        textbook.barzilai_borwein,
        {"lr": 0.1, "size": "long"},
        moves_at_rate_zero=True,
        **PRODUCTS,
    ),
    Case(UserSignum, textbook.signum),
    Case(ClippedAMSGrad, textbook.clipped_amsgrad, moduli=False),
]

#: One case for each class, for what does not depend on the keywords.
CLASSES = list({case.optimizer: case for case in reversed(CASES)}.values())[::-1]

#: Those that complex parameters are stepped by, as numbers with a modulus.
MODULI = [case for case in CASES if case.moduli]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_class = pytest.mark.parametrize("case", CLASSES, ids=lambda case: case.optimizer.__name__)


def step(optimizer, params, grads):
    """Take a step; where a rule asks for the value of the objective, it is that of a textbook."""
    return optimizer.update(params, grads, value=textbook.value(optimizer.t + 1))


def changing(lr):
    """Return a schedule around `lr` that never has the same value twice in a row."""
    return lambda t: lr * (1 + 0.5 * (t % 7)) / (1 + 0.01 * t)
