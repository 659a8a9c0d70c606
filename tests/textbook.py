"""The update rules as plain loops, written from the papers. Nothing here knows instep.

Each function takes a start `w`, the gradients of all steps, and the hyperparameters with the
defaults of the specification; `lr` is a number or a function of the step number. It yields `w`
after every step. Values are whatever has arithmetic and NumPy's functions: float64 arrays,
extended precision, or `error_analysis.Rounded`.
"""

import numpy as np


def square(x):
    """The square of the modulus, for complex numbers too."""
    return (x * x.conj()).real if isinstance(x, np.ndarray) else x * x


def inner(x, y):
    """The real part of the inner product of each pair of elements."""
    return (x.conj() * y).real if isinstance(x, np.ndarray) else x * y


def value(t):
    """The value of the objective at a step: any will do, for a rule that reads it only reads it."""
    return 10.0 * (1 + t % 5)


def rate(lr, t):
    return lr(t) if callable(lr) else lr


def sgd(w, gradients, lr=0.01):
    """Robbins & Monro 1951."""
    for t, g in enumerate(gradients, 1):
        w = w - rate(lr, t) * g
        yield w


def momentum(w, gradients, lr=0.01, momentum=0.9, dampening=0.0, lr_in_velocity=True):
    """Polyak 1964: the velocity contains the learning rate; or it is a sum of gradients."""
    velocity = 0 * w
    for t, g in enumerate(gradients, 1):
        share = 1.0 if t == 1 else 1 - dampening
        if lr_in_velocity:
            velocity = momentum * velocity - rate(lr, t) * share * g
            w = w + velocity
        else:
            velocity = momentum * velocity + share * g
            w = w - rate(lr, t) * velocity
        yield w


def nesterov(w, gradients, lr=0.01, momentum=0.9, lr_in_velocity=True):
    """Sutskever et al. 2013, moved to the look-ahead point; the velocity as above."""
    velocity = 0 * w
    for t, g in enumerate(gradients, 1):
        if lr_in_velocity:
            velocity = momentum * velocity - rate(lr, t) * g
            w = w + (momentum * velocity - rate(lr, t) * g)
        else:
            velocity = momentum * velocity + g
            w = w - rate(lr, t) * (g + momentum * velocity)
        yield w


def adagrad(w, gradients, lr=0.01, eps=1e-7, eps_in_sqrt=False, initial_accumulator_value=0.0):
    """Duchi, Hazan & Singer 2011."""
    total = 0 * w + initial_accumulator_value
    for t, g in enumerate(gradients, 1):
        total = total + square(g)
        w = w - rate(lr, t) * g / root(total, eps, eps_in_sqrt)
        yield w


def root(x, eps, eps_in_sqrt):
    """The root of a mean or sum of squares, eps beside it or in it."""
    return np.sqrt(x + eps) if eps_in_sqrt else np.sqrt(x) + eps


def rmsprop(
    w,
    gradients,
    lr=0.01,
    decay=0.9,
    eps=1e-7,
    centered=False,
    momentum=0.0,
    nesterov=False,
    eps_in_sqrt=False,
    initial_accumulator_value=0.0,
    lr_in_velocity=True,
):
    """Hinton 2012, lecture 6e; centered as in Graves 2013; the velocity as in Polyak 1964."""
    mean_square, mean, velocity = 0 * w + initial_accumulator_value, 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        mean_square = decay * mean_square + (1 - decay) * square(g)
        variance = mean_square
        if centered:
            mean = decay * mean + (1 - decay) * g
            variance = np.maximum(mean_square - square(mean), 0.0)
        inside, outside = (rate(lr, t), 1.0) if lr_in_velocity else (1.0, rate(lr, t))
        step = inside * g / root(variance, eps, eps_in_sqrt)
        velocity = momentum * velocity + step
        w = w - outside * (momentum * velocity + step if nesterov else velocity)
        yield w


def adam(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False, form="epsilon"):
    """Kingma & Ba 2014, algorithm 1, and section 2; the maximum of Reddi, Kale & Kumar 2018."""
    m, v, largest = 0 * w, 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        largest = np.maximum(largest, v)
        divisor = largest if amsgrad else v
        w = w - adam_step(m, divisor, t, rate(lr, t), beta1, beta2, eps, form)
        yield w


def adam_step(m, v, t, lr, beta1, beta2, eps, form):
    """Kingma & Ba 2014: a step of algorithm 1, or that of "epsilon hat" at the end of section 2."""
    if form == "epsilon_hat":
        rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        return rate * m / (np.sqrt(v) + eps)
    return lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


def adamw(
    w,
    gradients,
    lr=0.001,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    amsgrad=False,
    form="epsilon",
):
    """Loshchilov & Hutter 2017, algorithm 2, the decay scaled by the learning rate."""
    m, v, largest = 0 * w, 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        w = w - rate(lr, t) * weight_decay * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        largest = np.maximum(largest, v)
        divisor = largest if amsgrad else v
        w = w - adam_step(m, divisor, t, rate(lr, t), beta1, beta2, eps, form)
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
        clipped = np.minimum(np.maximum(g, -bound), bound)
        m = beta1 * m + (1 - beta1) * clipped
        v = beta2 * v + (1 - beta2) * (clipped * clipped)
        largest = np.maximum(largest, v)
        w = w - rate(lr, t) * m / (np.sqrt(largest) + eps)
        yield w


def adadelta(w, gradients, lr=1.0, rho=0.95, eps=1e-6):
    """Zeiler 2012, algorithm 1, with a learning rate."""
    mean_square, mean_square_step = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        mean_square = rho * mean_square + (1 - rho) * square(g)
        step = np.sqrt(mean_square_step + eps) / np.sqrt(mean_square + eps) * g
        mean_square_step = rho * mean_square_step + (1 - rho) * square(step)
        w = w - rate(lr, t) * step
        yield w


def amsgrad(
    w,
    gradients,
    lr=0.001,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    form="epsilon",
    bias_correction="after",
):
    """Reddi, Kale & Kumar 2018, algorithm 2, as it is or with Adam's bias corrections."""
    m, v, largest = 0 * w, 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        if bias_correction == "before":
            largest = np.maximum(largest, v / (1 - beta2**t))
            w = w - rate(lr, t) * (m / (1 - beta1**t)) / (np.sqrt(largest) + eps)
        elif bias_correction == "none":
            largest = np.maximum(largest, v)
            w = w - rate(lr, t) * m / (np.sqrt(largest) + eps)
        else:
            largest = np.maximum(largest, v)
            w = w - adam_step(m, largest, t, rate(lr, t), beta1, beta2, eps, form)
        yield w


def nadam(w, gradients, lr=0.002, beta1=0.9, beta2=0.999, eps=1e-8, psi=0.004, amsgrad=False):
    """Dozat 2016, algorithm 8, with the schedule of its section 4."""
    m, v, largest, product = 0 * w, 0 * w, 0 * w, 1.0
    for t, g in enumerate(gradients, 1):
        mu = beta1 * (1 - 0.5 * 0.96 ** (t * psi))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * psi))
        product = product * mu
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        largest = np.maximum(largest, v)
        m_hat = mu_next / (1 - product * mu_next) * m + (1 - mu) / (1 - product) * g
        v_hat = (largest if amsgrad else v) / (1 - beta2**t)
        w = w - rate(lr, t) * m_hat / (np.sqrt(v_hat) + eps)
        yield w


def radam(
    w,
    gradients,
    lr=0.001,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    threshold=5.0,
    form="epsilon_hat",
):
    """Liu et al. 2019, algorithm 2; eps, and 5 instead of 4, as in the authors' code."""
    m, v = 0 * w, 0 * w
    longest = 2 / (1 - beta2) - 1
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        m_hat = m / (1 - beta1**t)
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        if length > threshold:
            r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            adaptive = (1 - beta2**t) ** 0.5 / (np.sqrt(v) + eps)
            if form == "epsilon":
                adaptive = 1 / (np.sqrt(v / (1 - beta2**t)) + eps)
            w = w - rate(lr, t) * r**0.5 * m_hat * adaptive
        else:
            w = w - rate(lr, t) * m_hat
        yield w


def adamax(w, gradients, lr=0.002, beta1=0.9, beta2=0.999, eps=1e-8, eps_in_max=False):
    """Kingma & Ba 2014, algorithm 2, with eps added to the divisor, or to the gradient in it."""
    m, u = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, np.abs(g) + (eps if eps_in_max else 0.0))
        w = w - rate(lr, t) / (1 - beta1**t) * m / (u + (0.0 if eps_in_max else eps))
        yield w


def adabelief(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-16):
    """Zhuang et al. 2020, algorithm 2."""
    m, s = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * square(g - m) + eps
        w = w - rate(lr, t) * (m / (1 - beta1**t)) / (np.sqrt(s / (1 - beta2**t)) + eps)
        yield w


def yogi(w, gradients, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-3, bias_correction=True):
    """Zaheer et al. 2018, algorithm 2, as it is or with Adam's bias corrections."""
    m, v = 0 * w + 1e-6, 0 * w + 1e-6
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * (np.sign(v - square(g)) * square(g))
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if bias_correction else (1.0, 1.0)
        w = w - rate(lr, t) * (m / c1) / (np.sqrt(v / c2) + eps)
        yield w


def lion(w, gradients, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """Chen et al. 2023, algorithm 2."""
    m = 0 * w
    for t, g in enumerate(gradients, 1):
        update = np.sign(beta1 * m + (1 - beta1) * g)
        w = w - rate(lr, t) * (update + weight_decay * w)
        m = beta2 * m + (1 - beta2) * g
        yield w


def adan(w, gradients, lr=0.001, beta1=0.98, beta2=0.92, beta3=0.99, eps=1e-8, weight_decay=0.0):
    """Xie et al. 2022, algorithm 1, the betas and eps as in the authors' code."""
    m, u, n, previous = 0 * w, 0 * w, 0 * w, None
    for t, g in enumerate(gradients, 1):
        change = 0 * g if previous is None else g - previous
        ahead = g + beta2 * change
        m = beta1 * m + (1 - beta1) * g
        u = beta2 * u + (1 - beta2) * change
        n = beta3 * n + (1 - beta3) * square(ahead)
        direction = m / (1 - beta1**t) + beta2 * (u / (1 - beta2**t))
        step = rate(lr, t) * direction / (np.sqrt(n / (1 - beta3**t)) + eps)
        w = (w - step) / (1 + rate(lr, t) * weight_decay)
        previous = g
        yield w


def rprop(w, gradients, lr=0.01, shrink=0.5, grow=1.2, smallest=1e-6, largest=50.0):
    """Igel & Huesken 2000, iRprop-: one element at a time in the paper."""
    size, previous = 0 * w + rate(lr, 1), 0 * w
    for g in gradients:
        agreement = np.sign(g) * np.sign(previous)
        size = np.where(agreement > 0, grow * size, np.where(agreement < 0, shrink * size, size))
        size = np.minimum(np.maximum(size, smallest), largest)
        previous = np.where(agreement < 0, 0.0, g)
        w = w - np.sign(previous) * size
        yield w


def lars(w, gradients, lr=1.0, momentum=0.9, eta=0.001, weight_decay=0.0):
    """You, Gitman & Ginsburg 2017, algorithm 1; norms are positive here."""
    velocity = 0 * w
    for t, g in enumerate(gradients, 1):
        w_norm, g_norm = np.sqrt(np.sum(square(w))), np.sqrt(np.sum(square(g)))
        local_rate = eta * w_norm / (g_norm + weight_decay * w_norm)
        velocity = momentum * velocity + rate(lr, t) * local_rate * (g + weight_decay * w)
        w = w - velocity
        yield w


def lamb(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.01):
    """You et al. 2019, algorithm 2, the norms as they are; they are positive here."""
    m, v = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        direction = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * w
        ratio = np.sqrt(np.sum(square(w))) / np.sqrt(np.sum(square(direction)))
        w = w - rate(lr, t) * ratio * direction
        yield w


def schedule_free_adamw(
    w, gradients, lr=0.0025, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, r=0.0
):
    """Defazio et al. 2024, algorithm 1, with all three sequences; `w` is y."""
    x, y, z, v, largest, total = w, w, w, 0 * w, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        v = beta2 * v + (1 - beta2) * square(g)
        z = z - rate(lr, t) * (g / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * y)
        largest = max(largest, rate(lr, t))
        total = total + t**r * largest**2
        share = t**r * largest**2 / total
        x = (1 - share) * x + share * z
        y = (1 - beta1) * z + beta1 * x
        yield y


def adafactor(
    w,
    gradients,
    lr=0.01,
    decay=0.8,
    d=1.0,
    eps1=1e-30,
    eps2=1e-3,
    relative_step=True,
    eps1_as="term",
):
    """Shazeer & Stern 2018, algorithms 4 (two and more dimensions) and 5, with a given rate."""
    v, rows, columns = 0 * w, 0.0, 0.0
    term, bound = (eps1, 0.0) if eps1_as == "term" else (0.0, eps1)
    for t, g in enumerate(gradients, 1):
        beta = 1 - t**-decay
        squares = square(g) + term
        if w.ndim >= 2:
            rows = beta * rows + (1 - beta) * squares.mean(axis=-1)
            columns = beta * columns + (1 - beta) * squares.mean(axis=-2)
            mean = np.maximum(rows.mean(axis=-1), bound)
            v = rows[..., :, None] * columns[..., None, :] / mean[..., None, None]
        else:
            v = beta * v + (1 - beta) * squares
        update = g / np.maximum(np.sqrt(v), bound)
        size = np.sqrt(np.sum(square(update)) / w.size)
        scale = np.sqrt(np.sum(square(w)) / w.size)
        relative = min(rate(lr, t), t**-0.5) if relative_step else rate(lr, t)
        w = w - np.maximum(eps2, scale) * relative * (update / np.maximum(1.0, size / d))
        yield w


def muon(
    w,
    gradients,
    lr=0.02,
    momentum=0.95,
    weight_decay=0.0,
    adamw_lr=3e-4,
    beta1=0.9,
    beta2=0.95,
    eps=1e-10,
    nesterov=True,
    ns_steps=5,
    ns_a=3.4445,
    ns_b=-4.775,
    ns_c=2.0315,
    adjust_lr="original",
    beyond_2d="adamw",
    form="epsilon",
):
    """Jordan et al. 2024 for matrices, AdamW for other arrays."""
    if w.ndim < 2 or (w.ndim > 2 and beyond_2d == "adamw"):
        others = {"weight_decay": weight_decay, "form": form}
        yield from adamw(w, gradients, adamw_lr, beta1, beta2, eps, **others)
        return
    shape = (len(w), -1) if beyond_2d == "flatten" else (-1, *w.shape[-2:])
    m = 0 * w
    for t, g in enumerate(gradients, 1):
        m = momentum * m + g
        x = (g + momentum * m if nesterov else m).reshape(shape)
        x = x / np.linalg.norm(x, axis=(-2, -1), keepdims=True)
        for _ in range(ns_steps):
            a = x @ x.conj().swapaxes(-2, -1)
            x = ns_a * x + (ns_b * a + ns_c * (a @ a)) @ x
        rows, columns = x.shape[-2:]
        factor = max(1, rows / columns) if adjust_lr == "original" else 0.04 * max(rows, columns)
        w = (1 - rate(lr, t) * weight_decay) * w
        w = w - rate(lr, t) * np.sqrt(factor) * x.reshape(w.shape)
        yield w


def soap(
    w,
    gradients,
    lr=0.003,
    beta1=0.95,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.0,
    every=10,
    longest=10_000,
    beyond_2d="adamw",
):
    """Vyas et al. 2024, algorithm 3, whose first step makes the bases; AdamW for other arrays."""
    keywords = (lr, beta1, beta2, eps, weight_decay, every, longest)
    is_matrix = w.ndim == 2 and min(w.shape) <= longest
    if not is_matrix and (w.ndim <= 2 or beyond_2d == "adamw"):
        yield from adamw(w, gradients, lr, beta1, beta2, eps, weight_decay)
    elif not is_matrix:
        yield from of_matrices(soap, w, gradients, keywords, beyond_2d)
    if not is_matrix:
        return
    m, v, (left, right) = 0 * w, 0 * square(w), map(np.eye, w.shape)
    rows, columns = 0 * left, 0 * right
    for t, g in enumerate(gradients):
        if t:
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * square(left.conj().T @ g @ right)
            mean = left.conj().T @ m @ right / (1 - beta1**t)
            step = left @ (mean / (np.sqrt(v / (1 - beta2**t)) + eps)) @ right.conj().T
            w = w - rate(lr, t + 1) * (step + weight_decay * w)
        yield w
        rows = beta2 * rows + (1 - beta2) * g @ g.conj().T
        columns = beta2 * columns + (1 - beta2) * g.conj().T @ g
        if t % every == 0 and len(rows) <= longest:
            left, order = eigenbasis(rows, left if t else None)
            v = v[order]
        if t % every == 0 and len(columns) <= longest:
            right, order = eigenbasis(columns, right if t else None)
            v = v[:, order]


def shampoo(w, gradients, lr=0.01, eps=1e-6, every=1, longest=10_000, beyond_2d="adagrad"):
    """Gupta, Koren & Singer 2018, algorithm 1; of vectors and long sides, the diagonal."""
    if w.ndim > 2 and beyond_2d != "adagrad":
        yield from of_matrices(shampoo, w, gradients, (lr, eps, every, longest), beyond_2d)
    elif w.ndim != 2:
        total = 0 * square(w)
        for t, g in enumerate(gradients, 1):
            total = total + square(g)
            w = w - rate(lr, t) * (g / np.sqrt(total + eps))
            yield w
    if w.ndim != 2:
        return
    totals = [np.zeros((n, n)) for n in w.shape]
    for t, g in enumerate(gradients, 1):
        totals[0] = totals[0] + g @ g.conj().T
        totals[1] = totals[1] + g.conj().T @ g
        if t % every == 1 % every:
            left, right = (
                inverse_root(total if len(total) <= longest else np.diag(np.diag(total)), eps)
                for total in totals
            )
        w = w - rate(lr, t) * (left @ g @ right)
        yield w


def inverse_root(total, eps):
    """The fourth root of the inverse of a matrix plus `eps`, whose values are above rounding."""
    vectors, values, _ = np.linalg.svd(total, hermitian=True)
    values = np.maximum(values, 2.0**-48 * values.max()) + eps
    return vectors * values**-0.25 @ vectors.conj().T


def eigenbasis(symmetric, basis=None):
    """Eigenvectors, by one step of orthogonal iteration, and how their values were ordered."""
    if basis is None:
        basis = np.linalg.eigh(symmetric)[1]
    vectors = symmetric @ basis
    order = np.argsort(-np.sum(basis.conj() * vectors, axis=0).real)
    _, upper = np.linalg.qr(vectors[:, order])
    sizes = np.abs(np.diag(upper))
    independent = sizes > 4e-15 * sizes.max()
    return np.linalg.qr(vectors[:, order] * independent)[0], order


def of_matrices(loop, w, gradients, keywords, beyond_2d):
    """Follow the matrix that an array of more dimensions is, or the matrices of a stack."""
    if beyond_2d == "flatten":
        flat = [g.reshape(len(g), -1) for g in gradients]
        yield from (x.reshape(w.shape) for x in loop(w.reshape(len(w), -1), flat, *keywords))
    else:
        ways = (loop(x, [g[i] for g in gradients], *keywords) for i, x in enumerate(w))
        yield from map(np.stack, zip(*ways, strict=True))


def ademamix(
    w,
    gradients,
    lr=0.001,
    beta1=0.9,
    beta2=0.999,
    beta3=0.9999,
    alpha=5.0,
    eps=1e-8,
    weight_decay=0.0,
):
    """Pagliardini et al. 2024, algorithm 1, without warm-up."""
    m, slow, v = 0 * w, 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        slow = beta3 * slow + (1 - beta3) * g
        v = beta2 * v + (1 - beta2) * square(g)
        mixed = m / (1 - beta1**t) + alpha * slow
        direction = mixed / (np.sqrt(v / (1 - beta2**t)) + eps) + weight_decay * w
        w = w - rate(lr, t) * direction
        yield w


def adopt(w, gradients, lr=0.001, beta1=0.9, beta2=0.9999, eps=1e-6):
    """Taniguchi et al. 2024, algorithm 2; the first gradient is that of its initialization."""
    m, v = 0 * w, None
    for t, g in enumerate(gradients, 1):
        if v is not None:
            normalized = g / np.maximum(np.sqrt(v), eps)
            bound = (t - 1) ** 0.25
            beyond = np.abs(normalized) > bound
            normalized = np.where(beyond, bound * np.sign(normalized), normalized)
            m = beta1 * m + (1 - beta1) * normalized
            w = w - rate(lr, t) * m
        v = square(g) if v is None else beta2 * v + (1 - beta2) * square(g)
        yield w


def laprop(w, gradients, lr=4e-4, beta1=0.9, beta2=0.999, eps=1e-15):
    """Ziyin, Wang & Ueda 2020, algorithm 1."""
    m, v = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        v = beta2 * v + (1 - beta2) * square(g)
        m = beta1 * m + (1 - beta1) * (g / (np.sqrt(v / (1 - beta2**t)) + eps))
        w = w - rate(lr, t) * (m / (1 - beta1**t))
        yield w


def tiger(w, gradients, lr=0.001, beta=0.965, weight_decay=0.01):
    """Su 2023, with one rate for all parameters."""
    m = 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta * m + (1 - beta) * g
        w = w - rate(lr, t) * (np.sign(m) + weight_decay * w)
        yield w


def schedule_free_sgd(w, gradients, lr=1.0, beta=0.9, weight_decay=0.0, r=0.0):
    """Defazio et al. 2024, with all three sequences; `w` is y."""
    x, y, z, largest, total = w, w, w, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        z = z - rate(lr, t) * (g + weight_decay * y)
        largest = max(largest, rate(lr, t))
        total = total + t**r * largest**2
        share = t**r * largest**2 / total
        x = (1 - share) * x + share * z
        y = (1 - beta) * z + beta * x
        yield y


def adabound(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, final=0.1, gamma=1e-3):
    """Luo, Xiong, Liu & Sun 2019, algorithm 2, with Adam's bias corrections and no root of t."""
    m, v = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        step_size = rate(lr, t) * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        lower, upper = final * (1 - 1 / (gamma * t + 1)), final * (1 + 1 / (gamma * t))
        w = w - np.minimum(np.maximum(step_size / (np.sqrt(v) + eps), lower), upper) * m
        yield w


def cocob(w, gradients, lr=1.0, alpha=100.0, eps=1e-8):
    """Orabona & Tommasi 2017, algorithm 2, on gradients that are weighted by `lr`."""
    start, largest, total, reward, bets = w, 0 * np.abs(w) + eps, 0 * w, 0 * w, 0 * w
    for t, gradient in enumerate(gradients, 1):
        g = rate(lr, t) * gradient
        largest = np.maximum(largest, np.abs(g))
        total = total + np.abs(g)
        reward = np.maximum(reward - inner(g, w - start), 0.0)
        bets = bets - g
        share = bets / (largest * np.maximum(total + largest, alpha * largest))
        w = start + share * (largest + reward)
        yield w


def optimistic_gd(w, gradients, lr=0.01, optimism=1.0):
    """Daskalakis et al. 2017; the gradient before the first is the first."""
    previous = None
    for t, g in enumerate(gradients, 1):
        previous = g if previous is None else previous
        w = w - rate(lr, t) * (g + optimism * (g - previous))
        previous = g
        yield w


def asgd(w, gradients, lr=0.01, weight_decay=1e-4, alpha=0.75, t0=1e6):
    """Polyak & Juditsky 1992 with the rates of Bottou 2012; the mean changes no step."""
    for t, g in enumerate(gradients, 1):
        eta = rate(lr, t) / (1 + weight_decay * rate(lr, t) * (t - 1)) ** alpha
        w = w - weight_decay * eta * w - eta * g
        yield w


def stable_adamw(w, gradients, lr=0.001, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.01):
    """Wortsman et al. 2023, algorithm 2."""
    m, v = 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        share1, share2 = (1 - beta1) / (1 - beta1**t), (1 - beta2) / (1 - beta2**t)
        m = (1 - share1) * m + share1 * g
        v = (1 - share2) * v + share2 * square(g)
        ratios = square(g) / np.maximum(v, eps * eps)
        eta = rate(lr, t) / np.maximum(1.0, np.sqrt(np.sum(ratios) / w.size))
        w = w - eta * weight_decay * w
        w = w - eta * m / (np.sqrt(v) + eps)
        yield w


def mars(w, gradients, lr=0.003, beta1=0.95, beta2=0.99, gamma=0.025, eps=1e-8, weight_decay=0.0):
    """Yuan et al. 2024, algorithm 2, with the gradient of the step before, on its own data."""
    m, v, previous = 0 * w, 0 * w, None
    for t, g in enumerate(gradients, 1):
        change = 0 * g if previous is None else g - previous
        c = g + gamma * (beta1 / (1 - beta1)) * change
        c = c / np.maximum(1.0, np.sqrt(np.sum(square(c))))
        m = beta1 * m + (1 - beta1) * c
        v = beta2 * v + (1 - beta2) * square(c)
        direction = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
        w = w - rate(lr, t) * (direction + weight_decay * w)
        previous = g
        yield w


def fromage(w, gradients, lr=0.01):
    """Bernstein et al. 2020, algorithm 1; norms are positive here."""
    for t, g in enumerate(gradients, 1):
        ratio = np.sqrt(np.sum(square(w))) / np.sqrt(np.sum(square(g)))
        w = (w - rate(lr, t) * ratio * g) / (1 + rate(lr, t) ** 2) ** 0.5
        yield w


def novograd(w, gradients, lr=0.01, beta1=0.95, beta2=0.98, eps=1e-8, weight_decay=0.0):
    """Ginsburg et al. 2019, algorithm 1; the first mean squared norm is the first squared norm."""
    m, v = 0 * w, 0.0
    for t, g in enumerate(gradients, 1):
        norm = np.sum(square(g))
        v = norm if t == 1 else beta2 * v + (1 - beta2) * norm
        m = beta1 * m + (g / (np.sqrt(v) + eps) + weight_decay * w)
        w = w - rate(lr, t) * m
        yield w


def dog(w, gradients, lr=1.0, movement=1e-6, eps=1e-8):
    """Ivgi, Hinder & Carmon 2023, equation (DoG)."""
    start, total = w, 0.0
    distance = movement * (1 + np.sqrt(np.sum(square(w))))
    for t, g in enumerate(gradients, 1):
        distance = np.maximum(distance, np.sqrt(np.sum(square(w - start))))
        total = total + np.sum(square(g))
        w = w - rate(lr, t) * distance / np.sqrt(total + eps) * g
        yield w


def dowg(w, gradients, lr=1.0, distance=0.01, eps=1e-4):
    """Khaled, Mishchenko & Jin 2023, algorithm 1."""
    start, total = w, 0.0
    for t, g in enumerate(gradients, 1):
        distance = np.maximum(distance, np.sqrt(np.sum(square(w - start))))
        total = total + distance * distance * np.sum(square(g))
        w = w - rate(lr, t) * distance * distance / (np.sqrt(total) + eps) * g
        yield w


def polyak_sgd(w, gradients, lr=1.0, lowest=0.0, eps=0.0):
    """Loizou et al. 2020, SPS_max with c = 1; values are above the lowest here."""
    for t, g in enumerate(gradients, 1):
        w = w - np.minimum(rate(lr, t), (value(t) - lowest) / (np.sum(square(g)) + eps)) * g
        yield w


def momo(w, gradients, lr=1.0, beta=0.9, lowest=0.0):
    """Schaipp et al. 2023, algorithm 1, without decay."""
    mean, product, m = value(1), None, 0 * w
    for t, g in enumerate(gradients, 1):
        along = np.sum(inner(g, w))
        share = 0.0 if product is None else beta
        product = along if product is None else beta * product + (1 - beta) * along
        mean = share * mean + (1 - share) * value(t)
        m = share * m + (1 - share) * g
        above = np.maximum(mean - lowest - product + np.sum(inner(m, w)), 0.0)
        w = w - np.minimum(rate(lr, t), above / np.sum(square(m))) * m
        yield w


def momo_adam(w, gradients, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, lowest=0.0):
    """Schaipp et al. 2023, algorithm 2, without decay."""
    mean, product, m, v = 0.0, 0.0, 0 * w, 0 * w
    for t, g in enumerate(gradients, 1):
        mean = beta1 * mean + (1 - beta1) * value(t)
        product = beta1 * product + (1 - beta1) * np.sum(inner(g, w))
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * square(g)
        step = m / (np.sqrt(v / (1 - beta2**t)) + eps)
        weights = 1 - beta1**t
        above = np.maximum(mean - weights * lowest - product + np.sum(inner(m, w)), 0.0)
        w = w - np.minimum(rate(lr, t) / weights, above / np.sum(inner(m, step))) * step
        yield w


def prodigy(w, gradients, lr=1.0, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, initial=1e-6):
    """Mishchenko & Defazio 2023, in the form of Adam; bias corrections as in the authors' code."""
    start, d, r, s, m, v = w, initial, 0.0, 0 * w, 0 * w, 0 * w
    beta3 = beta2**0.5
    for t, g in enumerate(gradients, 1):
        eta = d * (rate(lr, t) * (1 - beta2**t) ** 0.5 / (1 - beta1**t))
        m = beta1 * m + (1 - beta1) * (d * g)
        v = beta2 * v + (1 - beta2) * square(d * g)
        r = beta3 * r + d / initial * eta * np.sum(inner(g, start - w))
        s = beta3 * s + d / initial * eta * g
        d = np.maximum(d, r / np.sum(np.abs(s)))
        w = w - eta * weight_decay * w - eta * m / (np.sqrt(v) + d * eps)
        yield w


def adam_mini(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8):
    """Zhang et al. 2024, algorithm 1, for one block and without decay."""
    m, v = 0 * w, 0.0
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (np.sum(square(g)) / w.size)
        w = w - rate(lr, t) * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        yield w


def dadapt_adamw(
    w, gradients, lr=1.0, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, initial=1e-6
):
    """Defazio & Mishchenko 2023, in the form of Adam, as in the authors' code."""
    d, r, s, m, v = initial, 0.0, 0 * w, 0 * w, 0 * w
    beta = beta2**0.5
    for t, g in enumerate(gradients, 1):
        eta = d * (rate(lr, t) * (1 - beta2**t) ** 0.5 / (1 - beta1**t))
        r = beta * r + (1 - beta) * eta * np.sum(inner(g, s / (np.sqrt(v) + eps)))
        m = beta1 * m + (1 - beta1) * eta * g
        v = beta2 * v + (1 - beta2) * square(g)
        s = beta * s + (1 - beta) * eta * g
        d = np.maximum(d, r / ((1 - beta) * np.sum(np.abs(s))))
        w = w - eta * weight_decay * w - m / (np.sqrt(v) + eps)
        yield w


def barzilai_borwein(w, gradients, lr=0.001, size="short"):
    """Barzilai & Borwein 1988, both of its rates; products are not zero here."""
    before = None
    for t, g in enumerate(gradients, 1):
        eta = rate(lr, t)
        if before is not None:
            p, y = w - before[0], g - before[1]
            product = np.abs(np.sum(inner(p, y)))
            short = size == "short"
            eta = product / np.sum(square(y)) if short else np.sum(square(p)) / product
        before = w, g
        w = w - eta * g
        yield w
