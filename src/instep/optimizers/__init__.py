"""The mathematics: one family a file, a screenful a rule."""

from instep.optimizers.adagrad import AdaGrad
from instep.optimizers.adam import Adam, AdamW
from instep.optimizers.momentum import Momentum, Nesterov
from instep.optimizers.rmsprop import RMSProp
from instep.optimizers.sgd import SGD

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Momentum", "Nesterov", "RMSProp"]
