"""The update rules as plain loops, written from the papers. Nothing here knows instep.

Each function takes a start `w`, the gradients of all steps, and the hyperparameters with the
defaults of the specification; `lr` is a number or a function of the step number. It yields `w`
after every step. Values are whatever has arithmetic and NumPy's functions: float64 arrays,
extended precision, or `error_analysis.Rounded`.
"""

import numpy as np


def rate(lr, t):
    return lr(t) if callable(lr) else lr


def sgd(w, gradients, lr=0.01):
    """Robbins & Monro 1951."""
    for t, g in enumerate(gradients, 1):
        w = w - rate(lr, t) * g
        yield w


def momentum(w, gradients, lr=0.01, momentum=0.9):
    """Polyak 1964: the velocity contains the learning rate."""
    velocity = 0 * w
    for t, g in enumerate(gradients, 1):
        velocity = momentum * velocity - rate(lr, t) * g
        w = w + velocity
        yield w


def nesterov(w, gradients, lr=0.01, momentum=0.9):
    """Sutskever et al. 2013, moved to the look-ahead point."""
    velocity = 0 * w
    for t, g in enumerate(gradients, 1):
        velocity = momentum * velocity - rate(lr, t) * g
        w = w + (momentum * velocity - rate(lr, t) * g)
        yield w


def adagrad(w, gradients, lr=0.01, eps=1e-7):
    """Duchi, Hazan & Singer 2011."""
    total = 0 * w
    for t, g in enumerate(gradients, 1):
        total = total + g * g
        w = w - rate(lr, t) * g / (np.sqrt(total) + eps)
        yield w


def rmsprop(w, gradients, lr=0.01, decay=0.9, eps=1e-7, centered=False, momentum=0.0):
    """Hinton 2012, lecture 6e; centered as in Graves 2013; the velocity as in Polyak 1964."""
    mean_square, mean, velocity = 0 * w, 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        mean_square = decay * mean_square + (1 - decay) * (g * g)
        variance = mean_square
        if centered:
            mean = decay * mean + (1 - decay) * g
            variance = np.maximum(mean_square - mean * mean, 0.0)
        velocity = momentum * velocity + rate(lr, t) * g / (np.sqrt(variance) + eps)
        w = w - velocity
        yield w


def adam(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8):
    """Kingma & Ba 2014, algorithm 1."""
    m, v = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g)
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        w = w - rate(lr, t) * m_hat / (np.sqrt(v_hat) + eps)
        yield w


def adamw(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    """Loshchilov & Hutter 2017, algorithm 2, the decay scaled by the learning rate."""
    m, v = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        w = w - rate(lr, t) * weight_decay * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g)
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        w = w - rate(lr, t) * m_hat / (np.sqrt(v_hat) + eps)
        yield w


def signum(w, gradients, lr=0.001, beta=0.9):
    """Bernstein et al. 2018."""
    m = 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta * m + (1 - beta) * g
        w = w - rate(lr, t) * np.sign(m)
        yield w


def clipped_amsgrad(w, gradients, lr=0.001, beta1=0.9, beta2=0.99, eps=1e-8, bound=1.0):
    """Reddi et al. 2018 on a gradient that is held within [-bound, bound]."""
    m, v, largest = 0 * w, 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        g = np.minimum(np.maximum(g, -bound), bound)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g)
        largest = np.maximum(largest, v)
        w = w - rate(lr, t) * m / (np.sqrt(largest) + eps)
        yield w
