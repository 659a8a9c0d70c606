# ruff: noqa: SLF001  (it looks inside on purpose)
"""What a step costs the host: far less than one call of an ElementwiseKernel for each tensor."""

import time

from instep import Adam

TENSORS = 200


def shortest(function, repeats=9, calls=3):
    """Return the shortest time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def test_a_step_costs_the_host_half_of_a_kernel_for_each_tensor_at_most(cupy, monkeypatch):
    """Kernels do nothing here, and what a launch costs on the stand-in is subtracted.

    The two gradients of a tensor take turns, so that every step finds its arrays moved.
    """
    params = {f"{i:03}": cupy.zeros(1000, "float32") for i in range(TENSORS)}
    grads = [{name: cupy.ones(1000, "float32") for name in params} for _ in range(2)]
    optimizer = Adam()
    for gradient in grads:
        optimizer.update(params, gradient)
    (bucket,) = optimizer._state.plan.buckets
    (launch,) = bucket.now[0].final
    monkeypatch.setattr(launch, "_kernel", lambda *_: None)

    def steps():
        for gradient in grads:
            optimizer.update(params, gradient)

    one_step = shortest(steps) / 2

    numbers = "float32 lr, float32 b1, float32 b2, float32 eps, float32 c1, float32 c2"
    kernel = cupy.ElementwiseKernel(
        f"float32 g, {numbers}", "float32 w, float32 m, float32 v", "", "nothing"
    )
    code = 'extern "C" __global__ void empty(float* g, float* w, float* m, float* v, float lr) {}'
    empty = cupy.RawKernel(code, "empty")
    g, w, m, v = (cupy.zeros(1, "float32") for _ in range(4))
    lr = cupy.float32(0.1)

    def elementwise():
        for _ in range(TENSORS):
            kernel(g, lr, lr, lr, lr, lr, lr, w, m, v)

    def launches():
        for _ in range(TENSORS):
            empty((1,), (1,), (g, w, m, v, lr))

    for function in (elementwise, launches):
        function()
    assert one_step <= 0.5 * (shortest(elementwise) - shortest(launches))
