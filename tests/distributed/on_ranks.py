"""What processes do together under mpiexec, and what is to come of it: run by test_sharded.py.

Each function is a case, which every rank runs. Rank 0 writes a line of JSON for each, with what
went wrong on which rank.
"""

import copy
import faulthandler
import importlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from instep import (
    FISTA,
    LAMB,
    LARS,
    LBFGS,
    SGD,
    SOAP,
    Adafactor,
    Adam,
    AdamW,
    Momentum,
    Muon,
    Prodigy,
    Shampoo,
    arrays,
    chain,
    minimize,
    partition,
    tree,
)
from instep.distributed import MeanObjective, RankError, Sharded
from instep.distributed.means import Block, added, divided
from instep.schedules import Cosine, ReduceOnPlateau
from instep.transforms import average, clip_by_global_norm, skip_nonfinite

#: The library of the arrays of those cases that make them with `new_tree`.
XP = importlib.import_module(os.environ.get("INSTEP_XP", "numpy"))

#: The engine of most cases, and those that some try.
ENGINE, *OTHERS = ("blocked", "native") if XP is np else ("cuda",)
ENGINES = (ENGINE, *OTHERS, "array_api")

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
TILE = 16_384
LAST = SIZE - 1

CASES = {}

#: Pieces go in rounds of so few bytes that there are many.
SMALL = 100_000


def case(function):
    CASES[function.__name__] = function
    return function


def new_tree(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)

    def new(*shape):
        x = rng.normal(size=shape)
        if np.dtype(dtype).kind == "c":
            x = x + 1j * rng.normal(size=shape)
        return XP.asarray(x.astype(dtype))

    return {
        "matrix": new(300, 200),
        "nested": {"bias": new(7), "long": new(5 * TILE + 5)},
        "list": [new(5, 5), new(TILE), new(1)],
        "none": new(0, 3),
    }


def small_tree(seed, dtype=np.float32):
    """Return matrices that are decomposed in no time."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (30, 20), "b": (7,), "c": (5, 5), "d": (12, 40)}
    return {key: XP.asarray(rng.normal(size=s).astype(dtype)) for key, s in shapes.items()}


def leaves(some):
    return [x for _, x in tree.flatten(some)]


def mean_of(trees):
    """Return the mean in pairs, in the order of the trees, in the dtype of arithmetic."""

    def mean(*terms):
        wide = np.float32 if terms[0].dtype == np.float16 else terms[0].dtype
        own = [arrays.to_numpy(x).astype(wide) for x in terms]
        while len(own) > 1:
            pairs = zip(own[::2], own[1::2], strict=False)
            own = [a + b for a, b in pairs] + own[len(own) - len(own) % 2 :]
        real = own[0].real.dtype
        return XP.asarray((own[0].view(real) / real.type(len(terms))).view(wide))

    values = iter(zip(*map(leaves, trees), strict=True))
    return tree.mapped(lambda path, x: mean(*next(values)), trees[0])


def bits(some):
    return [(x.dtype, x.shape, arrays.to_numpy(x).tobytes()) for x in leaves(some)]


def same_as_one(make, *, dtype=np.float32, steps=2, value=False, spoil=None, new=new_tree):
    """Step on all ranks, and alone with the mean of all gradients: return both optimizers."""
    params, expected = new(0, dtype), new(0, dtype)
    together, alone = Sharded(make(), COMM, bucket_bytes=SMALL), make()
    for step in range(steps):
        grads = [new(1 + SIZE * step + rank, dtype) for rank in range(SIZE)]
        if spoil is not None:
            spoil(step, grads)
        mean = mean_of(grads)
        values = [float(step + rank) for rank in range(SIZE)] if value else [None]
        before = bits(grads[RANK])
        result = together.update(params, grads[RANK], value=values[RANK % len(values)])
        alone.update(expected, mean, value=sum(values) / SIZE if value else None)
        assert result is params
        assert bits(grads[RANK]) == before
        assert bits(params) == bits(expected), step
        assert together.t == alone.t
    return together, alone, params, expected


def raises(kind, call, *parts):
    with pytest.raises(kind) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    return caught.value


# The same bits as one process -----------------------------------------------------------------


@case
def elementwise_rules():
    for engine in ENGINES:
        same_as_one(lambda engine=engine: AdamW(0.1, engine=engine))
    same_as_one(lambda: SGD(Cosine(0.1, steps=5), engine=ENGINE))
    for dtype in (np.float16, np.float64, np.complex64):
        same_as_one(lambda: Momentum(0.1, engine=ENGINE), dtype=dtype)


@case
def norms_of_tensors_and_the_tree():
    for engine in ENGINES:
        same_as_one(lambda engine=engine: chain(clip_by_global_norm(1.0), LAMB(0.1), engine=engine))
    same_as_one(lambda: LARS(0.1, engine=ENGINE), dtype=np.float64)
    same_as_one(lambda: Prodigy(engine=ENGINE))
    same_as_one(
        lambda: chain(clip_by_global_norm(1.0), SGD(0.1), engine=ENGINE), dtype=np.complex64
    )


@case
def rules_of_matrices():
    for make in (Muon, Shampoo, SOAP, Adafactor):
        same_as_one(lambda make=make: make(engine=ENGINE), new=small_tree)


@case
def state_in_few_bits_and_random_words():
    same_as_one(lambda: Adam(0.1, state_dtype="float8", engine=ENGINE))
    same_as_one(lambda: SGD(0.1, rounding="stochastic", engine=ENGINE), dtype=np.float16)


@case
def a_partition_with_sums_in_one_branch():
    def make():
        branches = {"nested/*": LAMB(0.1), "*": Adam(0.1)}
        return chain(clip_by_global_norm(0.5), partition(branches), engine=ENGINE)

    same_as_one(make)


@case
def guards():
    def spoil(step, grads):
        if step == 1:
            grads[LAST]["nested"]["long"][-1] = np.nan

    together, alone, *_ = same_as_one(
        lambda: chain(skip_nonfinite(), Adam(0.1), engine=ENGINE), spoil=spoil, steps=4
    )
    assert together.t == alone.t == 3
    assert together.optimizer.state_dict()["skipped"] == 1


@case
def averages():
    together, alone, params, expected = same_as_one(
        lambda: chain(AdamW(0.1), average(0.9), engine=ENGINE)
    )
    assert bits(together.answer(params)) == bits(alone.answer(expected))
    assert bits(params) == bits(expected)


@case
def chosen_leaves():
    def make():
        return Adam(
            0.1,
            frozen=("list/1",),
            overrides={lambda path, w: w.ndim == 2: {"lr": 0.5}},
            engine=ENGINE,
        )

    same_as_one(make)


@case
def gradients_that_are_none():
    params, expected = new_tree(0), new_tree(0)
    together, alone = Sharded(Adam(0.1, engine=ENGINE), COMM), Adam(0.1, engine=ENGINE)
    for step in range(4):
        grads = [new_tree(1 + SIZE * step + rank) for rank in range(SIZE)]
        mean = mean_of(grads)
        if step % 2:
            for some in (grads[RANK], mean):
                some["nested"]["long"] = some["list"][0] = None
        together.update(params, grads[RANK])
        alone.update(expected, mean)
        assert bits(params) == bits(expected)


@case
def no_gradient_at_all():
    params = new_tree(0)
    together = Sharded(Adam(0.1, engine=ENGINE), COMM)
    together.update(params, tree.mapped(lambda path, x: None, params))
    assert bits(params) == bits(new_tree(0))


@case
def arrays_in_other_orders():
    if XP is not np:  # those of a device must be contiguous
        columns = {"w": XP.ones((4, 4), np.float32)[:, :2]}
        together = Sharded(SGD(0.1), COMM)
        raises(RankError, lambda: together.update(columns, columns), "['w']", "not contiguous")
        return

    def turned(some):
        return {"w": np.asfortranarray(some["matrix"]), "v": some["nested"]["long"][::2]}

    params, expected = turned(new_tree(0)), turned(new_tree(0))
    make = lambda: chain(clip_by_global_norm(1.0), Adam(0.1), engine=ENGINE)  # noqa: E731
    together, alone = Sharded(make(), COMM, bucket_bytes=SMALL), make()
    for step in range(2):
        grads = [new_tree(1 + SIZE * step + rank) for rank in range(SIZE)]
        together.update(params, turned(grads[RANK]))
        alone.update(expected, turned(mean_of(grads)))
        assert bits(params) == bits(expected)


@case
def more_ranks_than_tiles():
    params, expected = {"w": XP.ones(3, np.float32)}, {"w": XP.ones(3, np.float32)}
    make = lambda: chain(clip_by_global_norm(0.1), Prodigy(), engine=ENGINE)  # noqa: E731
    together, alone = Sharded(make(), COMM), make()
    grad = {"w": XP.arange(3, dtype=np.float32)}
    for _ in range(3):
        together.update(params, grad)
        alone.update(expected, mean_of([grad] * SIZE))
        assert bits(params) == bits(expected)
    # A rank that had nothing so far gets leaves, and knows what is remembered of the tree.
    for some, optimizer in ((params, together), (expected, alone)):
        some["v"] = XP.ones((4, TILE), np.float32)
        grads = {**grad, "v": XP.full((4, TILE), 0.5, np.float32)}
        if optimizer is alone:
            grads = mean_of([grads] * SIZE)
        for _ in range(2):
            optimizer.update(some, grads)
    assert bits(params) == bits(expected)


@case
def schedules_that_are_told_the_value():
    same_as_one(lambda: SGD(ReduceOnPlateau(0.1, patience=1), engine=ENGINE), value=True, steps=5)


@case
def a_single_array():
    w = XP.ones(2 * TILE + 1, np.float32)
    Sharded(SGD(0.5, engine=ENGINE), COMM).update(w, XP.ones_like(w))
    assert (w == 0.5).all()


# Means ----------------------------------------------------------------------------------------


@case
def microbatches_give_the_same_bits_on_any_number_of_ranks():
    count = 12  # that 1, 2, 3 and 4 ranks can share
    each = count // SIZE
    params, expected = new_tree(0), new_tree(0)
    together = Sharded(Adam(0.1, engine=ENGINE), COMM, microbatches=each, bucket_bytes=SMALL)
    alone = Sharded(Adam(0.1, engine=ENGINE), MPI.COMM_SELF, microbatches=count)
    grads = [new_tree(1 + i) for i in range(count)]
    together.update(params, grads[RANK * each : (RANK + 1) * each])
    alone.update(expected, grads)
    assert bits(params) == bits(expected)
    plain = new_tree(0)
    Adam(0.1, engine=ENGINE).update(plain, mean_of(grads))
    assert bits(params) == bits(plain)


@case
def sums_of_blocks_are_those_of_pairs():
    rng = np.random.default_rng(0)
    for count in range(1, 20):
        terms = [rng.normal(size=5).astype(np.float32) for _ in range(count)]
        pairs = zip([Block(i, 1) for i in range(count)], copy.deepcopy(terms), strict=True)
        found = divided(added(pairs), count)
        assert found.tobytes() == mean_of([{"x": x} for x in terms])["x"].tobytes()


@case
def each_rank_keeps_its_part_of_the_state():
    together, *_ = same_as_one(lambda: Adam(0.1, engine=ENGINE))
    states = together.optimizer.state_dict()["states"]
    own = sum(x.nbytes for leaf in states.values() for x in leaf["slots"].values())
    total = 2 * sum(x.nbytes for x in leaves(new_tree(0)))
    # Cuts fall on tiles: a part is at most a tile of both slots larger than the n-th.
    assert own <= total / SIZE + 2 * 4 * TILE
    assert COMM.allreduce(own) == total


# What cannot be done --------------------------------------------------------------------------


def refused(change, kind, *parts, make=lambda: Adam(0.1, engine=ENGINE), value=None, **options):
    """Change what the last rank has: all raise, and nothing has changed anywhere."""
    params, grads = new_tree(0), new_tree(1)
    together = Sharded(make(), COMM, **options)
    together.update(params, grads, value=value)
    wrong_params, wrong_grads = params, grads
    own = together.optimizer
    if RANK == LAST:
        wrong_params, wrong_grads = change(dict(params), dict(grads), own)
    before, state = bits(params), own.state_dict()
    error = raises(kind, lambda: together.update(wrong_params, wrong_grads, value=value), *parts)
    if isinstance(error, RankError):
        assert error.rank == LAST
    assert bits(params) == before
    assert own.t == state["t"] == 1
    after = own.state_dict()
    for key, leaf in state["states"].items():
        assert bits(leaf["slots"]) == bits(after["states"][key]["slots"])
    return together, params, grads


@case
def a_rank_that_raises():
    def wrong_shape(params, grads, own):
        return params, grads | {"matrix": np.ones((3, 4), np.float32)}

    together, params, grads = refused(
        wrong_shape, RankError, f"rank {LAST} of {SIZE}", "['matrix']", "nothing has changed"
    )
    together.update(params, grads)  # all can go on
    assert together.t == 2

    def missing(params, grads, own):
        del grads["matrix"]
        return params, grads

    refused(missing, RankError, f"rank {LAST} of {SIZE}", "['matrix']")


@case
def a_schedule_that_raises_on_one_rank():
    # In the midst of the step, when gradients are there.
    calls = []

    def lr(step):
        if step == 2 and RANK == LAST:
            raise ZeroDivisionError("no rate")
        calls.append(step)
        return 0.1

    def keep(params, grads, own):
        return params, grads

    refused(keep, RankError, f"rank {LAST} of", "no rate", make=lambda: SGD(lr, engine=ENGINE))
    refused(
        keep,
        RankError,
        "no rate",
        make=lambda: chain(clip_by_global_norm(1.0), SGD(lr, engine=ENGINE), engine=ENGINE),
    )


@case
def trees_that_differ():
    if SIZE == 1:  # there is nothing to differ from
        return

    def other_dtype(params, grads, own):
        return params | {"matrix": params["matrix"].astype(np.float64)}, grads

    refused(other_dtype, ValueError, f"rank {LAST} has params['matrix']", "float64", "float32")

    def other_gradient(params, grads, own):
        return params, grads | {"matrix": grads["matrix"].astype(np.float64)}

    refused(other_gradient, ValueError, f"rank {LAST} has params['matrix']", "gradient float64")

    def none(params, grads, own):
        return params, grads | {"matrix": None}

    refused(none, ValueError, f"rank {LAST} has params['matrix']", "gradient None")

    def more(params, grads, own):
        new = np.ones(3, np.float32)
        return params | {"zebra": new}, grads | {"zebra": new.copy()}

    refused(more, ValueError, f"rank 0 has nothing; rank {LAST} has params['zebra']")

    def other_rate(params, grads, own):
        own.lr = 0.2
        return params, grads

    refused(other_rate, ValueError, "lr=0.1", "lr=0.2")

    def other_order(params, grads, own):  # of entries in a list
        params["list"], grads["list"] = params["list"][::-1], grads["list"][::-1]
        return params, grads

    refused(other_order, ValueError, f"rank {LAST} has params['list'][0]")


@case
def the_order_in_which_keys_were_inserted_does_not_matter():
    def turned(some):
        return dict(reversed(some.items())) if RANK == LAST else some

    params, expected = turned(new_tree(0)), new_tree(0)
    Sharded(Adam(0.1, engine=ENGINE), COMM).update(params, turned(new_tree(1)))
    Adam(0.1, engine=ENGINE).update(expected, mean_of([new_tree(1)] * SIZE))
    assert bits(params) == bits(expected)


@case
def arrays_of_other_libraries():
    together = Sharded(SGD(0.1), COMM)
    raises(RankError, lambda: together.update({"x": 1.0}, {"x": 2.0}), "['x']", "NumPy or CuPy")
    raises(TypeError, lambda: Sharded(3, COMM), "optimizer")
    raises(TypeError, lambda: Sharded(SGD(0.1), None), "communicator")
    raises(ValueError, lambda: Sharded(SGD(0.1), COMM, microbatches=0), "microbatches")
    two = Sharded(SGD(0.1), COMM, microbatches=2)
    w = np.ones(3)
    raises(RankError, lambda: two.update(w, w), "list of 2 trees")
    raises(RankError, lambda: two.update(w, [np.ones(3), np.ones(3, np.float32)]), "microbatch 1")


@case
def settings_are_those_of_the_optimizer():
    together = Sharded(chain(clip_by_global_norm(1.0), Adam(0.1)), COMM)
    for name in ("lr", "beta1", "frozen", "overrides", "engine", "seed"):
        before = getattr(together.optimizer, name)
        write = f"write sharded.optimizer.{name}, on all ranks"
        raises(AttributeError, lambda name=name: setattr(together, name, 0.5), name, write)
        raises(AttributeError, lambda name=name: getattr(together, name), name, write)
        assert getattr(together.optimizer, name) == before
    for name in ("readings", "explain", "skipped"):
        write = f"write sharded.optimizer.{name}"
        raises(AttributeError, lambda name=name: getattr(together, name), "Sharded(Chain)", write)
    for name, instead in (
        ("answer_in_place", "answer(params)"),
        ("state_dict", "save(path)"),
        ("load_state_dict", "load(path)"),
        ("flush", "whole tensors"),
        ("learning_rate", "it is called lr here; hyperparameters and settings are those of"),
        ("step", "update(params, grads) takes a step"),
        ("momentum_", "hyperparameters and settings are those of sharded.optimizer"),
    ):
        raises(AttributeError, lambda name=name: getattr(together, name), f"'{name}'", instead)
        raises(AttributeError, lambda name=name: setattr(together, name, 1), f"{name} ", instead)
    raises(AttributeError, lambda: setattr(together, "t", 1), "t cannot be set here")
    several = Sharded(partition({"*": SGD(0.1)}), COMM)
    write = "write sharded.optimizer.branches['*'].lr"
    raises(AttributeError, lambda: setattr(several, "lr", 0.5), write)
    raises(AttributeError, lambda: several.lr, write)
    raises(AttributeError, lambda: setattr(MeanObjective(min, COMM), "bucket_bytes", 1), "bucket")
    raises(AttributeError, lambda: Sharded.__new__(Sharded).optimizer, "Sharded has no attribute")
    w = np.ones(3)
    several.optimizer.branches["*"].lr = 0.5
    several.update(w, np.ones(3))
    assert (w == 0.5).all()


# State ----------------------------------------------------------------------------------------


def folder():
    return Path(COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None))


def split_comm(count):
    """Return a communicator of the first ranks, or None on others."""
    comm = COMM.Split(0 if count > RANK else MPI.UNDEFINED, RANK)
    return None if comm == MPI.COMM_NULL else comm


def resumed(make, counts):
    """Save on as many ranks as the first number says, load on as many as the second."""
    where, params, expected, alone = folder(), new_tree(0), new_tree(0), make()
    for phase, count in enumerate(counts):
        comm = split_comm(count)
        together = None if comm is None else Sharded(make(), comm, bucket_bytes=SMALL)
        if together is not None and phase:
            together.load(where)
            assert together.t == 2
        for step in range(2):
            grads = [new_tree(10 + 10 * phase + step + rank) for rank in range(count)]
            alone.update(expected, mean_of(grads))
            if together is not None:
                together.update(params, grads[RANK])
        if together is not None and not phase:
            together.save(where)
            together.save(where)  # in the place of the first
        COMM.Barrier()
        values = iter(COMM.bcast([arrays.to_numpy(x) for x in leaves(params)]))
        params = tree.mapped(lambda path, x, own=values: XP.asarray(next(own)), params)
    assert bits(params) == bits(expected), counts
    names = [path.name for path in where.iterdir()]
    assert len(names) == 1 + counts[0]
    COMM.Barrier()
    if RANK == 0:
        shutil.rmtree(where)


@case
def a_state_of_n_ranks_loads_into_m():
    for counts in {(SIZE, 1), (1, SIZE), (SIZE, max(1, SIZE - 1)), (max(1, SIZE - 1), SIZE)}:
        resumed(lambda: chain(AdamW(0.1), average(0.9), engine=ENGINE), counts)
        resumed(lambda: chain(clip_by_global_norm(1.0), Prodigy(), engine=ENGINE), counts)
        resumed(lambda: Muon(0.1, engine=ENGINE), counts)


@case
def saves_that_cannot_be_loaded():
    where = folder()
    params = new_tree(0)
    together = Sharded(Adam(0.1, engine=ENGINE), COMM)
    together.update(params, new_tree(1))
    raises(RankError, lambda: together.load(where), "index.json")
    together.save(where)
    other = Sharded(Momentum(0.1, engine=ENGINE), COMM)
    raises(RankError, lambda: other.load(where), "Adam")
    assert other.t == 0
    COMM.Barrier()
    if RANK == 0:
        next(where.glob(f"rank-{LAST}-*")).unlink()
    COMM.Barrier()
    raises(RankError, lambda: together.load(where), "rank-")
    assert together.t == 1
    COMM.Barrier()
    if RANK == 0:
        (where / "index.json").write_text("{")
    COMM.Barrier()
    raises(RankError, lambda: together.load(where), "damaged")
    raises(RankError, lambda: together.save(where / "index.json"), "rank 0")
    COMM.Barrier()
    if RANK == 0:
        shutil.rmtree(where)


# Objectives ------------------------------------------------------------------------------------


def part_of_objective(rank):
    """Return the misfit that a process has, of matrices of its own."""
    rng = np.random.default_rng(rank)
    matrix = XP.asarray(rng.normal(size=(12, 6)) + np.eye(12, 6))
    wanted = XP.asarray(rng.normal(size=12))

    def value_and_grad(params):
        w, bias = params["w"], params["bias"][:6]
        rest = matrix @ (w + bias) - wanted
        gradient = matrix.T @ rest
        wide = 0.01 * params["bias"]
        wide[:6] += gradient
        value = 0.5 * float(rest @ rest) + 0.005 * float((params["bias"] ** 2).sum())
        return value, {"w": gradient, "bias": wide, "idle": None}

    return value_and_grad


def start_of_objective():
    return {"w": XP.zeros(6), "bias": XP.ones(2 * TILE + 3), "idle": XP.ones(2)}


def new_adam():
    return Adam(0.1, engine=ENGINE)


@case
def minimizing_a_mean_takes_the_way_of_one_process():
    parts = [part_of_objective(rank) for rank in range(SIZE)]

    def alone(params):
        found = [part(params) for part in parts]
        own = [{key: g[key] for key in ("w", "bias")} for _, g in found]
        values = [(Block(i, 1), np.array([value])) for i, (value, _) in enumerate(found)]
        return float(divided(added(values), SIZE)[0]), {**mean_of(own), "idle": None}

    made = (lambda: LBFGS(4, engine=ENGINE)), (lambda: FISTA(engine=ENGINE)), new_adam
    for make in made:
        params, expected = start_of_objective(), start_of_objective()
        together = MeanObjective(parts[RANK], COMM, bucket_bytes=SMALL)
        result = minimize(together, params, make(), steps=12)
        reference = minimize(alone, expected, make(), steps=12)
        assert bits(params) == bits(expected)
        assert (result.status, result.nfev) == (reference.status, reference.nfev)
        assert result.fun == reference.fun < alone(start_of_objective())[0]
        assert len(set(COMM.allgather(float(arrays.to_numpy(params["w"])[0])))) == 1


@case
def an_objective_that_fails_on_a_rank_fails_on_all():
    def value_and_grad(params):
        if RANK == LAST and len(seen) == 2:
            raise ArithmeticError("no value here")
        seen.append(0)
        return part_of_objective(RANK)(params)

    seen, params = [], start_of_objective()
    objective = MeanObjective(value_and_grad, COMM)
    kind = RankError if SIZE > 1 else Exception
    error = raises(kind, lambda: minimize(objective, params, LBFGS(4, engine=ENGINE)), "no value")
    if SIZE > 1:
        assert error.rank == LAST
        assert isinstance(error.__cause__, ArithmeticError) == (RANK == LAST)

    def other(params):
        value, grads = part_of_objective(RANK)(params)
        return value, {**grads, "w": grads["w"].astype("float32")} if RANK == LAST else grads

    if SIZE > 1:
        raises(ValueError, lambda: MeanObjective(other, COMM)(params), f"rank {LAST} has", "'w'")
    raises(TypeError, lambda: MeanObjective(other, "comm"), "communicator of mpi4py")
    raises(TypeError, lambda: MeanObjective(3, COMM), "value_and_grad must be a function")
    raises(ValueError, lambda: MeanObjective(other, COMM, bucket_bytes=0), "at least 1")


# Processes that differ ---------------------------------------------------------------------------


def tree_of_two():
    return {"a": XP.ones((300, 200), "float32"), "b": XP.ones(7, "float32")}


@case
def settings_that_differ_are_refused_by_all():
    if SIZE == 1:
        return
    is_last = RANK == LAST
    for settings in (
        {"frozen": ["a"] if is_last else []},
        {"engine": "array_api" if is_last else "auto"},
        {"state_dtype": "bfloat16" if is_last else None},
        {"overrides": {"a": {"lr": 0.1 if is_last else 0.2}}},
        {"lr": Cosine(0.1, steps=5 if is_last else 6)},
        {"seed": int(is_last)},
    ):
        params = tree_of_two()
        before = bits(params)
        together = Sharded(AdamW(**settings), COMM)
        text = "rank 0 has", f"rank {LAST} has", "give the same trees and settings"
        raises(ValueError, lambda p=params, o=together: o.update(p, tree_of_two()), *text)
        assert bits(params) == before
        assert together.t == 0


@case
def what_is_constructed_is_constructed_by_all_or_none():
    if SIZE == 1:
        return
    wrong = {"bucket_bytes": 10 if RANK == LAST else 20}
    raises(ValueError, lambda: Sharded(Adam(), COMM, **wrong), "give the same settings")
    raises(ValueError, lambda: MeanObjective(len, COMM, **wrong), "give the same settings")
    count = 0 if RANK == LAST else 1
    kind = ValueError if RANK == LAST else RankError
    raises(kind, lambda: Sharded(Adam(), COMM, microbatches=count), "at least 1")


@case
def an_optimizer_that_has_taken_steps_is_refused():
    stepped = Adam(engine=ENGINE)
    stepped.update(tree_of_two(), tree_of_two())
    raises(ValueError, lambda: Sharded(stepped, COMM), "has taken 1 steps", "give a new one")


@case
def leaves_that_are_thawed_are_stepped_and_those_that_must_stay_whole_refused():
    params, expected = tree_of_two(), tree_of_two()
    together = Sharded(AdamW(0.1, frozen=["a"], engine=ENGINE), COMM)
    alone = AdamW(0.1, frozen=["a"], engine=ENGINE)
    for frozen in (["a"], [], ["b"]):
        together.optimizer.frozen = alone.frozen = frozen
        together.update(params, tree_of_two())
        alone.update(expected, tree_of_two())
        assert bits(params) == bits(expected)
    together.optimizer.frozen = []
    together.optimizer.state_dtype = "bfloat16"
    if SIZE > 1:
        text = "must stay whole from now on"
        raises(RuntimeError, lambda: together.update(params, tree_of_two()), text)


@case
def other_calls_and_errors_of_others_are_told_apart():
    if SIZE == 1:
        return
    together, params = Sharded(SGD(engine=ENGINE), COMM), tree_of_two()
    together.update(params, tree_of_two())
    with tempfile.TemporaryDirectory() as folder:
        if RANK == 0:
            raises(ValueError, lambda: together.save(folder), "make the same calls on all ranks")
        else:
            text = "make the same calls on all ranks"
            raises(ValueError, lambda: together.update(params, tree_of_two()), text)
    together.update(params, tree_of_two())

    class MuteError(Exception):
        def __str__(self):
            raise KeyError("nothing to say")

    def inner(step):
        if RANK == LAST:
            MeanObjective(lambda _: 1 / 0, MPI.COMM_SELF)({})
        return 0.1

    def mute(step):
        if RANK == LAST:
            raise MuteError
        return 0.1

    for lr in (inner, mute):
        failing = Sharded(SGD(lr, engine=ENGINE), COMM)
        error = raises(RankError, lambda o=failing: o.update(new_tree(0), new_tree(1)))
        assert error.rank == LAST


@case
def a_mean_of_whole_numbers_is_refused_by_all():
    if SIZE == 1:
        return
    objective = MeanObjective(lambda _: (1.0, {"x": XP.arange(20)}), COMM)
    raises(RankError, lambda: objective({"x": XP.zeros(20)}), "of which there is no mean")


@case
def saves_are_of_one_folder():
    if SIZE == 1:
        return
    root = COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None)
    own = str(Path(root) / f"of-{RANK}")
    together, params = Sharded(Adam(engine=ENGINE), COMM), tree_of_two()
    together.update(params, tree_of_two())
    raises(RankError, lambda: together.save(own), "give a folder that all ranks see")
    assert not list(Path(own).glob("*.npz"))
    for name in ("one", "two"):
        together.save(str(Path(root) / name))
    other = str(Path(root) / ("two" if RANK == LAST else "one"))
    new = Sharded(Adam(engine=ENGINE), COMM)
    raises(ValueError, lambda: new.load(other), "ranks read different saves")
    COMM.Barrier()
    if RANK == 0:
        index = Path(root) / "one" / "index.json"
        found = json.loads(index.read_text())
        found["leaves"]["a"][3][2] -= 1
        index.write_text(json.dumps(found))
    COMM.Barrier()
    raises(RankError, lambda: new.load(str(Path(root) / "one")), "'a' are not all of it")
    assert new.t == 0
    COMM.Barrier()
    if RANK == 0:
        shutil.rmtree(root)


@case
def communicators_are_given_back():
    for _ in range(800):  # three each, of a few thousand
        together = Sharded(SGD(engine=ENGINE), COMM)
        together.free()


def a_rank_that_dies():
    """Leave the others in the midst of a step. Not one of the cases: nobody comes back."""

    def lr(step):
        if RANK == LAST:
            os._exit(3)
        return 0.1

    Sharded(SGD(lr), COMM).update(np.ones(3), np.ones(3))
    sys.stdout.write("alive\n")


def main(names):
    faulthandler.enable()
    for name in names or CASES:
        error = None
        try:
            (CASES.get(name) or globals()[name])()
        except Exception:  # noqa: BLE001  (the others are to hear of it)
            error = traceback.format_exc()
        wrong = {rank: text for rank, text in enumerate(COMM.allgather(error)) if text}
        if RANK == 0:
            sys.stdout.write(json.dumps([name, wrong]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
