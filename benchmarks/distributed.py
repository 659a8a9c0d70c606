"""Measure `Sharded`: bytes on the wire and in memory of a rank, time, and a model of many ranks.

Run it alone: it starts itself under mpiexec, on 1, 2 and 4 processes, and prints a page of tables.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

#: Elements of the parameters, float32: some layers of a network.
SHAPES = [(1024, 1024)] * 24 + [(1024,)] * 24 + [(4096, 512)] * 2
QUICK = [(256, 256)] * 4 + [(256,)] * 4

#: What a link carries in the model, bytes a second, and how long a message takes: 100 Gbit/s.
BANDWIDTH, LATENCY = 12.5e9, 5e-6
MODELED = (8, 64, 256, 1024)


class Counting:
    """A communicator that counts the bytes which leave this process for another."""

    def __init__(self, comm, counts):
        self._comm, self.counts = comm, counts

    def __getattr__(self, name):
        return getattr(self._comm, name)

    def Dup(self):  # noqa: N802  (as MPI has it)
        return Counting(self._comm.Dup(), self.counts)

    def Ialltoallv(self, sent, received):  # noqa: N802
        own = self._comm.Get_rank()
        self.counts["gradients"] += sum(sent[1]) - sent[1][own]
        return self._comm.Ialltoallv(sent, received)

    def Iallgatherv(self, sent, received):  # noqa: N802
        # A ring passes each part on, so that a process sends what it gets.
        self.counts["parameters"] += sum(received[1]) - received[1][self._comm.Get_rank()]
        return self._comm.Iallgatherv(sent, received)

    def allgather(self, message):
        import pickle

        self.counts["messages"] += len(pickle.dumps(message)) * (self._comm.Get_size() - 1)
        self.counts["rounds"] += 1
        return self._comm.allgather(message)


def rules():
    from instep import AdamW, chain
    from instep.transforms import clip_by_global_norm

    return {
        "AdamW": lambda: AdamW(1e-3),
        "clipped AdamW": lambda: chain(clip_by_global_norm(1.0), AdamW(1e-3)),
    }


def measure(steps, shapes):
    """Print what this rule costs on this number of ranks, as JSON, from rank 0."""
    import numpy as np
    from mpi4py import MPI

    from instep.distributed import Sharded

    comm = MPI.COMM_WORLD
    rng = np.random.default_rng(comm.rank)
    for name, make in rules().items():
        params = {f"w{i}": np.ones(shape, np.float32) for i, shape in enumerate(shapes)}
        grads = {key: rng.normal(size=w.shape).astype(np.float32) for key, w in params.items()}
        counts = dict.fromkeys(("gradients", "parameters", "messages", "rounds"), 0)
        optimizer = Sharded(make(), Counting(comm, counts))
        optimizer.update(params, grads)
        counts.update(dict.fromkeys(counts, 0))
        times = []
        for _ in range(steps):
            comm.Barrier()
            start = time.perf_counter()
            optimizer.update(params, grads)
            comm.Barrier()
            times.append(time.perf_counter() - start)
        states = optimizer.optimizer.state_dict()["states"].values()
        state = sum(x.nbytes for leaf in states for x in leaf["slots"].values())
        found = {
            "rule": name,
            "ranks": comm.size,
            "time": sorted(times)[len(times) // 2],
            "elements": sum(w.size for w in params.values()),
            "state": comm.allreduce(state, MPI.MAX),
            **{key: comm.allreduce(x, MPI.MAX) / steps for key, x in counts.items()},
        }
        if comm.rank == 0:
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


def started(ranks, arguments):
    """Return what was measured on so many ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit("there is no mpiexec; pip install mpi4py mpich")
    command = [mpiexec, "-n", str(ranks), sys.executable, __file__, "--on-ranks", *arguments]
    environment = os.environ | {"INSTEP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def modeled(found, ranks):
    """Return milliseconds of a step on so many ranks with a link of their own, and MiB a rank.

    Bytes are those that were measured, for each element: gradients and parameters go out once, but
    for the own part. The rest is what one process takes alone, of which each has a part.
    """
    alone, most = found[0], found[-1]
    share = (ranks - 1) / ranks * most["ranks"] / (most["ranks"] - 1)
    wire = (most["gradients"] + most["parameters"]) * share
    messages = most["rounds"] * LATENCY * ranks.bit_length()
    time_of = wire / BANDWIDTH + messages + alone["time"] / ranks
    return 1e3 * time_of, alone["state"] / ranks / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small tree and few steps")
    parser.add_argument("--on-ranks", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    steps, shapes = (3, QUICK) if given.quick else (11, SHAPES)
    if given.on_ranks:
        measure(steps, shapes)
        return
    found = {}
    for ranks in (1, 2, 4):
        for one in started(ranks, ["--quick"] if given.quick else []):
            found.setdefault(one["rule"], []).append(one)
    mebi = 2**20
    heads = ["rule", "ranks", "ms a step", "state, MiB", "gradients out, MiB", "parameters, MiB"]
    print(f"| {' | '.join([*heads, 'other, KiB'])} |")
    print("|---|---|---|---|---|---|---|")
    for rule, many in found.items():
        for x in many:
            print(
                f"| {rule} | {x['ranks']} | {1e3 * x['time']:.1f} | {x['state'] / mebi:.1f} "
                f"| {x['gradients'] / mebi:.1f} | {x['parameters'] / mebi:.1f} "
                f"| {x['messages'] / 1024:.1f} |"
            )
    print(f"\nA model of links of {BANDWIDTH / 1e9:g} GB/s, {1e6 * LATENCY:g} us a message:\n")
    print("| rule | ranks | ms a step | state, MiB |")
    print("|---|---|---|---|")
    for rule, many in found.items():
        for ranks in MODELED:
            time_of, state = modeled(many, ranks)
            print(f"| {rule} | {ranks} | {time_of:.1f} | {state:.2f} |")


if __name__ == "__main__":
    main()
