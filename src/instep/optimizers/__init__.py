"""The mathematics: one family a file, a screenful a rule."""

from instep.optimizers.adabelief import AdaBelief
from instep.optimizers.adabound import AdaBound
from instep.optimizers.adadelta import AdaDelta
from instep.optimizers.adafactor import Adafactor
from instep.optimizers.adagrad import AdaGrad
from instep.optimizers.adam import Adam, AdamW
from instep.optimizers.adam_mini import AdamMini
from instep.optimizers.adamax import AdaMax
from instep.optimizers.adan import Adan
from instep.optimizers.ademamix import AdEMAMix
from instep.optimizers.adopt import ADOPT
from instep.optimizers.amsgrad import AMSGrad
from instep.optimizers.asgd import ASGD
from instep.optimizers.barzilai_borwein import BarzilaiBorwein
from instep.optimizers.cocob import COCOB
from instep.optimizers.dadapt import DAdaptAdamW
from instep.optimizers.dog import DoG
from instep.optimizers.dowg import DoWG
from instep.optimizers.fromage import Fromage
from instep.optimizers.lamb import LAMB
from instep.optimizers.laprop import LaProp
from instep.optimizers.lars import LARS
from instep.optimizers.lion import Lion
from instep.optimizers.mars import MARS
from instep.optimizers.momentum import Momentum, Nesterov
from instep.optimizers.momo import MoMo, MoMoAdam
from instep.optimizers.muon import Muon
from instep.optimizers.nadam import NAdam
from instep.optimizers.novograd import NovoGrad
from instep.optimizers.optimistic import OptimisticGD
from instep.optimizers.polyak import PolyakSGD
from instep.optimizers.prodigy import Prodigy
from instep.optimizers.radam import RAdam
from instep.optimizers.rmsprop import RMSProp
from instep.optimizers.rprop import Rprop
from instep.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from instep.optimizers.sgd import SGD
from instep.optimizers.shampoo import Shampoo
from instep.optimizers.signum import Signum
from instep.optimizers.soap import SOAP
from instep.optimizers.stable_adamw import StableAdamW
from instep.optimizers.tiger import Tiger
from instep.optimizers.yogi import Yogi

__all__ = [
    "ADOPT",
    "ASGD",
    "COCOB",
    "LAMB",
    "LARS",
    "MARS",
    "SGD",
    "SOAP",
    "AMSGrad",
    "AdEMAMix",
    "AdaBelief",
    "AdaBound",
    "AdaDelta",
    "AdaGrad",
    "AdaMax",
    "Adafactor",
    "Adam",
    "AdamMini",
    "AdamW",
    "Adan",
    "BarzilaiBorwein",
    "DAdaptAdamW",
    "DoG",
    "DoWG",
    "Fromage",
    "LaProp",
    "Lion",
    "MoMo",
    "MoMoAdam",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "NovoGrad",
    "OptimisticGD",
    "PolyakSGD",
    "Prodigy",
    "RAdam",
    "RMSProp",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "Signum",
    "StableAdamW",
    "Tiger",
    "Yogi",
]
