"""Rules whose sums are over the tree have NumPy's bits on a device, numbers that are left too."""

import cases
import engine_runs
import test_over_tree
from device_arrays import arrays_of, mirrors


@test_over_tree.every_tree
@test_over_tree.every_case
def test_bits_are_those_of_numpy(cupy, case, dtypes):
    expected = test_over_tree.noise(0, dtypes)
    params, optimizers = mirrors(cupy, expected), (case.make(engine="cuda"), case.make())
    for step in range(10):
        grads = test_over_tree.gradients(expected, step)
        given = arrays_of(mirrors(cupy, {k: g for k, g in grads.items() if g is not None}))
        cases.step(optimizers[0], arrays_of(params), dict.fromkeys(grads) | given)
        cases.step(optimizers[1], expected, grads)
    got = {name: mirror.read() for name, mirror in params.items()}
    engine_runs.assert_same_run((got, optimizers[0]), (expected, optimizers[1]))
