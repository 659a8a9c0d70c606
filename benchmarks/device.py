"""What a step takes on a CUDA device, beside what else can take it: tables in Markdown.

    python benchmarks/device.py [sizes] [layouts] [dtypes] [libraries] [fewer_bytes] [minimization]

Device time is that between two events around steps that were queued behind a kernel which spins,
so that the host has no part in it. Host time is that of the same calls, and of the call alone.
All are medians over rounds in which contenders take turns. PyTorch is compared with where it is
installed. On an emulated device the sizes are tiny, and the times mean nothing.
"""

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache

import cupy
import numpy as np
from fewer_bytes_rows import ROWS
from networks import gpt2_small, resnet50

from instep import LBFGS, SGD, Adam, AdamW, chain, minimize
from instep.transforms import clip_by_global_norm

try:
    import torch
except ImportError:
    torch = None

PROPERTIES = cupy.cuda.runtime.getDeviceProperties(0)
IS_EMULATED = "emulated" in PROPERTIES["name"].decode().lower()
ROUNDS, MOST_STEPS = (1, 1) if IS_EMULATED else (7, 20)

SPIN = cupy.RawKernel(
    'extern "C" __global__ void spin(const long long cycles)\n'
    "{ const long long start = clock64(); while (clock64() - start < cycles) { } }",
    "spin",
)


def spin(seconds):
    """Keep the device busy, at some 2 GHz."""
    if not IS_EMULATED:
        SPIN((1,), (1,), (np.int64(2e9 * seconds),))


def measure(steps):
    """Return the medians of seconds of steps by their names: (on the device, of the host)."""
    found = {name: ([], []) for name in steps}
    for step in steps.values():  # what is compiled at first, and what is remembered of a step
        step()
        step()
    cupy.cuda.Device().synchronize()
    for turn in range(ROUNDS):
        for name in list(steps)[:: -1 if turn % 2 else 1]:
            for times, seconds in zip(found[name], of_one(steps[name]), strict=True):
                times.append(seconds)
    return {name: tuple(map(statistics.median, times)) for name, times in found.items()}


def of_one(step):
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    start = time.perf_counter()
    step()
    count = min(MOST_STEPS, 1 + int(0.02 / (time.perf_counter() - start)))
    cupy.cuda.Device().synchronize()
    spin(0.002 + 1.5 * count * (time.perf_counter() - start))
    begin.record()
    start = time.perf_counter()
    for _ in range(count):
        step()
    host = (time.perf_counter() - start) / count
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) / 1e3 / count, host


@cache
def numbers(seed):
    """Return a million normal numbers."""
    return np.random.default_rng(seed).standard_normal(1 << 20).astype(np.float32)


def random(shape, dtype="float32", seed=0):
    """Return an array of normal numbers, of which a million are drawn."""
    x = cupy.asarray(np.resize(numbers(seed), shape))
    if np.dtype(dtype).kind == "c":
        x = x + 1j * x[..., ::-1]
    return x.astype(dtype)


def trees(shapes):
    """Return parameters and gradients of these shapes."""
    return [{f"{i:05}": random(s, seed=seed) for i, s in enumerate(shapes)} for seed in (0, 1)]


def bandwidth(nbytes):
    """Return the bytes a second that a copy on the device reads and writes."""
    a, b = (cupy.zeros(nbytes, dtype=cupy.uint8) for _ in range(2))
    stream = cupy.cuda.get_current_stream()
    copy = {"copy": lambda: b.data.copy_from_device_async(a.data, nbytes, stream)}
    return 2 * nbytes / measure(copy)["copy"][0]


def row(*entries):
    print(f"| {' | '.join(map(str, entries))} |", flush=True)


def table(*titles):
    print(flush=True)
    row(*titles)
    row("---", *["---:"] * (len(titles) - 1))


def free():
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()


# Contenders ---------------------------------------------------------------------------------------


def clipped():
    return chain(clip_by_global_norm(1.0), AdamW())


OPTIMIZERS = {"SGD": SGD, "Adam": Adam, "clipped AdamW": clipped}


def updating(optimizer, params, grads) -> Callable[[], object]:
    return lambda: optimizer.update(params, grads)


def torch_adam(params, grads):
    return on_torch(torch.optim.Adam, params, grads).step


def torch_clipped(params, grads):
    optimizer = on_torch(torch.optim.AdamW, params, grads)
    held = optimizer.param_groups[0]["params"]

    def step():
        torch.nn.utils.clip_grad_norm_(held, 1.0, foreach=True)
        optimizer.step()

    return step


def on_torch(kind, params, grads):
    held = [torch.from_dlpack(w).clone().requires_grad_() for w in params.values()]
    for w, g in zip(held, grads.values(), strict=True):
        w.grad = torch.from_dlpack(g).clone()
    return kind(held, fused=True)


def one_kernel_each(params, grads):
    """Return the step of Adam as one writes it with CuPy: a kernel, called for each tensor."""
    kernel = cupy.ElementwiseKernel(
        "T g, float64 rate, float64 root",
        "T w, T m, T v",
        "m = T(0.9) * m + T(0.1) * g; v = T(0.999) * v + T(0.001) * g * g;"
        "w -= T(rate) * m / (sqrt(v) / T(root) + T(1e-8))",
        "adam_of_one",
    )
    arrays = [(w, cupy.zeros_like(w), cupy.zeros_like(w)) for w in params.values()]
    count = iter(range(1, 1 << 30))

    def step():
        t = next(count)
        rate, root = 1e-3 / (1 - 0.9**t), math.sqrt(1 - 0.999**t)
        for g, own in zip(grads.values(), arrays, strict=True):
            kernel(g, rate, root, *own)

    return step


# Tables -------------------------------------------------------------------------------------------

SIZES = {
    "1 of 2\\*\\*20": [(1 << 20,)],
    "1 of 2\\*\\*25": [(1 << 25,)],
    "1 of 2\\*\\*27": [(1 << 27,)],
    "200 of 1,000": [(1000,)] * 200,
    "10,000 of 100": [(100,)] * 10_000,
    "ResNet-50, 161": resnet50(),
    "GPT-2 small, 148": gpt2_small(),
}


def sizes():
    """Adam, and AdamW behind a clipped norm, on trees of float32."""
    shapes = {"5 of 10": [(10,)] * 5} if IS_EMULATED else SIZES
    limit = bandwidth(1000 if IS_EMULATED else 1 << 31)
    print(f"A copy on the device moves {limit / 1e9:,.0f} GB/s.")
    for title, bytes_each, make, theirs in (
        ("Adam", 28, Adam, torch_adam),
        ("clip_by_global_norm, AdamW", 32, clipped, torch_clipped),
    ):
        table(
            f"{title}: tensors",
            *("device, us", "of the copy", "torch fused", "a kernel each"),
            *("host, us", "torch fused", "a kernel each"),
        )
        for name, of_tree in shapes.items():
            params, grads = trees(of_tree)
            steps = {"instep": updating(make(), params, grads)}
            if torch is not None:
                steps["torch"] = theirs(params, grads)
            if make is Adam and len(of_tree) < 1000:  # what is queued must fit
                steps["kernel"] = one_kernel_each(params, grads)
            found = measure(steps)
            device, host = found["instep"]
            moved = bytes_each * sum(w.size for w in params.values())
            others = [found.get(other) for other in ("torch", "kernel")]
            row(
                *(name, f"{device * 1e6:,.1f}", f"{moved / device / limit:.0%}"),
                *("" if x is None else f"{x[0] / device:.2f}" for x in others),
                f"{host * 1e6:,.0f}",
                *("" if x is None else f"{x[1] / host:.2f}" for x in others),
            )
            del params, grads, steps
            free()


def on_device(optimizer, w, g):
    """Return the seconds of a step on the device."""
    return measure({"": updating(optimizer, {"w": w}, {"w": g})})[""][0]


def layouts():
    """Strided gradients, and strided parameters with the state beside them."""
    n = 64 if IS_EMULATED else 8192
    channels = 16
    made = {
        "contiguous": lambda: random((n, n)),
        "transposed": lambda: random((n, n)).T,
        "`[:, :n]` of 2n columns": lambda: random((n, 2 * n))[:, :n],
        "`[:, ::2]`": lambda: random((n, 2 * n))[:, ::2],
        "`[::2]`": lambda: random((2 * n, n))[::2],
        "reversed": lambda: random((n, n))[::-1, ::-1],
        "channels last": lambda: random(
            (n // channels, channels, channels, n // channels)
        ).transpose(0, 3, 1, 2),
    }
    table("layout", *(f"{name}: {what}" for name in OPTIMIZERS for what in ("gradient", "both")))
    plain = {}
    for layout, make in made.items():
        entries = []
        for name, optimizer in OPTIMIZERS.items():
            for both in (False, True):
                g = make()
                w = make() if both else random(g.shape)
                seconds = on_device(optimizer(), w, g)
                entries.append(f"{seconds / plain.setdefault(name, seconds):.2f}")
                del g, w
                free()
        row(layout, *entries)


def dtypes():
    """Shares of the bandwidth of a copy, by dtype."""
    elements = 1000 if IS_EMULATED else 1 << 26
    limit = bandwidth(1000 if IS_EMULATED else 1 << 31)
    table("dtype", *OPTIMIZERS)
    for dtype in ("float16", "float32", "float64", "complex64", "complex128"):
        entries = []
        for make in OPTIMIZERS.values():
            w, g = random((elements,), dtype), random((elements,), dtype, 1)
            optimizer = make()
            seconds = on_device(optimizer, w, g)
            (explained,) = optimizer.explain(w, g).buckets
            moved = explained.bytes_per_element * elements
            entries.append(f"{moved / seconds / limit:.0%}")
            del w, g, optimizer
            free()
        row(dtype, *entries)


def of_new_gradients(params, grads, *, rounds):
    """Return seconds of the host, where gradients are new tensors in each step."""
    optimizer, found = Adam(), []
    for _ in range(2 + rounds):
        renewed = {key: g.clone() for key, g in grads.items()}
        start = time.perf_counter()
        optimizer.update(params, renewed)
        found.append(time.perf_counter() - start)
    return found[2:]


def libraries():
    """Tensors of PyTorch, beside CuPy's view of their memory and PyTorch's own step."""
    if torch is None or not torch.cuda.is_available():
        print("no PyTorch that sees the device")
        return
    table("Adam: tensors", "CuPy, host us", "tensors", "new gradients", "torch fused")
    for name, shapes in SIZES.items():
        if len(shapes) > 1000 or sum(map(math.prod, shapes)) > 1 << 26:
            continue
        views = trees(shapes)
        held = [{key: torch.from_dlpack(x) for key, x in tree.items()} for tree in views]
        steps = {
            "CuPy": updating(Adam(), *views),
            "tensors": updating(Adam(), *held),
            "torch": torch_adam(*views),
        }
        found = measure(steps)
        new = statistics.median(of_new_gradients(*held, rounds=10 * ROUNDS))
        hosts = [found[who][1] for who in ("CuPy", "tensors")]
        row(name, *(f"{1e6 * x:,.0f}" for x in (*hosts, new, found["torch"][1])))
        del views, held, steps
        free()


def fewer_bytes():
    """Adam on one large tensor, where parameters or state have fewer bytes."""
    elements = 1000 if IS_EMULATED else 1 << 27
    limit = bandwidth(1000 if IS_EMULATED else 1 << 31)
    has_torch = torch is not None and torch.cuda.is_available()
    table("parameters", "", "bytes", "device, us", "float32 / this", "of the copy")
    own = None
    for dtype, label, settings in ROWS:
        if not has_torch and (settings is None or dtype == "bfloat16"):
            continue  # arrays of CuPy have no bfloat16
        w, g = random((elements,)), random((elements,), seed=1)
        if has_torch:
            w, g = (torch.from_dlpack(x).to(getattr(torch, dtype)) for x in (w, g))
        if settings is None:
            held = w.requires_grad_()
            held.grad = g
            step, moved = torch.optim.Adam([held], fused=True).step, 7 * w.element_size()
        else:
            optimizer = Adam(**settings)
            (explained,) = optimizer.explain(w, g).buckets
            step, moved = updating(optimizer, w, g), explained.bytes_per_element
        seconds = measure({"": step})[""][0]
        if settings == {} and own is None:
            own = seconds
        ratio = "" if own is None else f"{own / seconds:.2f}"
        share = f"{moved * elements / seconds / limit:.0%}"
        row(dtype, label, f"{moved:.5g}", f"{seconds * 1e6:,.0f}", ratio, share)
        step = optimizer = held = None
        del w, g
        free()


def minimization():
    """An iteration of L-BFGS with ten pairs, with its evaluations; of host and device together."""
    warm, counted = (2, 1) if IS_EMULATED else (14, 20)
    table("L-BFGS: elements", "instep, us", "torch", "torch, strong_wolfe")
    for elements in (100,) if IS_EMULATED else (1 << 16, 1 << 22, 1 << 25):
        scales = cupy.asarray(10.0 ** np.random.default_rng(0).uniform(0, 4, elements), "float32")
        start = random((elements,), seed=1)
        own = of_minimize(scales, start, warm, counted)
        ways = (None, "strong_wolfe") if torch is not None and torch.cuda.is_available() else ()
        others = [of_torch_lbfgs(scales, start, way, warm, counted) for way in ways]
        row(f"{elements:,}", f"{own * 1e6:,.0f}", *(f"{x / own:.2f}" for x in others))
        del scales, start
        free()


def of_minimize(scales, start, warm, counted):
    """Return the seconds of an iteration of the kit."""
    times = []

    def note(*_):
        cupy.cuda.Device().synchronize()
        times.append(time.perf_counter())

    def objective(x):
        g = scales * x
        return 0.5 * g.dot(x), g

    minimize(
        objective, start.copy(), LBFGS(10), steps=warm + counted, callback=note, progress=False
    )
    return (times[-1] - times[warm - 1]) / (len(times) - warm)


def of_torch_lbfgs(scales, start, line_search, warm, counted):
    """Return the seconds of an iteration of PyTorch."""
    scales, x = torch.from_dlpack(scales), torch.from_dlpack(start).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x],
        history_size=10,
        line_search_fn=line_search,
        max_iter=warm,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        max_eval=10**9,
    )

    def closure():
        x.grad = scales * x.detach()
        return 0.5 * x.grad.dot(x.detach())

    optimizer.step(closure)
    optimizer.param_groups[0]["max_iter"] = counted
    before = optimizer.state[x]["n_iter"]
    torch.cuda.synchronize()
    begun = time.perf_counter()
    optimizer.step(closure)
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / (optimizer.state[x]["n_iter"] - before)


if __name__ == "__main__":
    tables = (sizes, layouts, dtypes, libraries, fewer_bytes, minimization)
    known = {one.__name__: one for one in tables}
    print(f"{PROPERTIES['name'].decode()}, CuPy {cupy.__version__}", end=", ")
    print(f"PyTorch {torch.__version__}" if torch else "no PyTorch", flush=True)
    for chosen in sys.argv[1:] or known:
        known[chosen]()
