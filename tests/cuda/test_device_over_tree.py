"""Rules whose sums are over the tree have NumPy's bits on a device, numbers that are left too."""

import cases
import engine_runs
import test_over_tree
from device_arrays import arrays_of, mirrors

from instep import chain
from instep.transforms import centralize, skip_nonfinite


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


@test_over_tree.every_late
def test_no_leaf_reads_a_sum_to_which_others_are_to_add(cupy, rules):
    expected = test_over_tree.of_two_kinds()
    params = mirrors(cupy, expected)
    there, here = (
        chain(skip_nonfinite(), centralize(), *rules(), engine=engine)
        for engine in ("cuda", "array_api")
    )
    for step in range(3):
        grads = test_over_tree.rising(expected, step)
        given = {k: g if g is None else cupy.asarray(g) for k, g in grads.items()}
        there.update(arrays_of(params), given)
        here.update(expected, grads)
    got = {name: mirror.read() for name, mirror in params.items()}
    engine_runs.assert_same_run((got, there), (expected, here))
