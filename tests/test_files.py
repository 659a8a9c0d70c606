"""Files are the old one or the new one, whole; and what is no file of the kit is one error."""

import io
import json
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import bits
import engine_runs
import numpy as np
import pytest

from instep import LBFGS, SGD, Adam, Momentum, chain, minimize
from instep.schedules import Linear, ReduceOnPlateau
from instep.transforms import average, dynamic_scale, project

SAVED = Path(__file__).parent / "saved"

SUFFIXES = ["", ".npz", ".safetensors"]
every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)
every_format = pytest.mark.parametrize("suffix", SUFFIXES[1:])

linux = pytest.mark.skipif(sys.platform != "linux", reason="permissions and signals of Linux")


def require(suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")


def stepped(optimizer, dtype="float64", steps=2):
    params = {"a": np.ones(3, dtype), "b": {"c": np.ones((2, 2), dtype)}}
    for step in range(steps):
        c = np.full((2, 2), step - 1.5, dtype)
        optimizer.update(params, {"a": np.full(3, step + 1, dtype), "b": {"c": c}})
    return optimizer


# Formats -------------------------------------------------------------------------------------


@every_suffix
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "float8"])
def test_every_format_holds_every_dtype_bit_for_bit(state_dtype, dtype, suffix, tmp_path):
    require(suffix)
    rng = np.random.default_rng(0)
    params = {"w": bits.ordinary(rng, (3, 100), dtype), "0d": np.array(0.5, dtype)}
    params |= {"empty": np.zeros((0, 3), dtype), "F": np.asfortranarray(params["w"])}
    optimizer = Adam(state_dtype=state_dtype, min_float8_size=0)
    for _ in range(2):
        optimizer.update(params, {k: bits.ordinary(rng, w.shape, dtype) for k, w in params.items()})
    optimizer.save(tmp_path / f"run{suffix}")
    loaded = Adam(state_dtype=state_dtype, min_float8_size=0).load(tmp_path / f"run{suffix}")
    engine_runs.assert_same_state(loaded, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == [f"run{suffix}"]


@every_suffix
def test_every_format_holds_wild_numbers_and_names(suffix, tmp_path):
    require(suffix)
    rng = np.random.default_rng(0)
    array = np.abs(bits.ordinary(rng, (3,), "float64"))
    optimizer = chain(Momentum(array), project(lower=-np.inf, upper=np.array([np.inf, 1.0, 2.0])))
    names = ["ä/'b'", "", "__metadata__", "header", "a.npy", "..", "/x", "file"]
    optimizer.update({name: np.ones(3) for name in names}, dict.fromkeys(names, array))
    optimizer.save(tmp_path / f"run{suffix}")
    other = chain(Momentum(), project()).load(tmp_path / f"run{suffix}")
    engine_runs.assert_same_state(other, optimizer)
    assert repr(other) == repr(optimizer)


def test_what_both_formats_say_is_json(tmp_path):
    pytest.importorskip("safetensors")
    optimizer = stepped(chain(Adam(ReduceOnPlateau(0.5)), project(lower=-np.inf)))
    for suffix in (".npz", ".safetensors"):
        optimizer.save(tmp_path / f"run{suffix}")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as archive:
        text = str(archive["header"])
        assert set(archive.files) == {"header", "slot 0", "slot 1", "slot 2", "slot 3"}
    content = (tmp_path / "run.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["instep"]) == json.loads(text)

    def refuse(constant):
        raise AssertionError(constant)

    header = json.loads(text, parse_constant=refuse)  # such as Infinity, which JSON has not
    assert header["format"] == 2
    assert header["optimizer"] == "Chain"


@pytest.mark.parametrize("name", ["run.pt", "run.npz.bak", "step1.5", "run.pickle"])
def test_an_unknown_suffix_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"SGD\.save: .* has the suffix .*; name it '.*\.npz'"):
        SGD().save(tmp_path / name)
    assert not [*tmp_path.iterdir()]


def test_what_is_in_a_file_tells_its_format(tmp_path):
    stepped(Adam(0.25)).save(tmp_path / "run.npz")
    (tmp_path / "run.npz").rename(tmp_path / "run.bak")
    assert Adam().load(tmp_path / "run.bak").lr == 0.25


def test_without_the_package_an_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("instep.files.safetensors.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"SGD\.save: .* 'instep\[safetensors\]'"):
        SGD().save(tmp_path / "run.safetensors")
    assert not [*tmp_path.iterdir()]
    (tmp_path / "run").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModuleNotFoundError, match=r"run' .* 'instep\[safetensors\]'"):
        SGD().load(tmp_path / "run")


# Files of earlier versions -------------------------------------------------------------------


def tree():
    return {"a": np.arange(3.0), "b": {"c": np.ones((2, 2), "float32")}}


def run(optimizer, params, first, last):
    for t in range(first, last):
        c = np.full((2, 2), t - 1.5, "float32")
        optimizer.update(params, {"a": np.array([t, 2.0, -1.0]), "b": {"c": c}})
    return params


def as_saved(lr=0.25):
    beta1 = Linear(0.5, 0.75, steps=4)
    return chain(dynamic_scale(4.0), Adam(lr, beta1=beta1), average(0.5))


@pytest.mark.parametrize("name", ["format-1.npz", "format-2.npz", "format-2.safetensors"])
def test_files_of_every_format_stay_readable(name):
    require(Path(name).suffix)
    expected, params = as_saved(), tree()
    run(expected, params, 0, 3)
    loaded = as_saved(lr=0.125).load(SAVED / name)
    assert repr(loaded) == repr(expected)
    engine_runs.assert_same_state(loaded, expected)
    other = {"a": params["a"].copy(), "b": {"c": params["b"]["c"].copy()}}
    for optimizer, own in ((loaded, other), (expected, params)):
        run(optimizer, own, 3, 6)
    bits.assert_same_bits(other["a"], params["a"])
    bits.assert_same_bits(other["b"]["c"], params["b"]["c"])
    engine_runs.assert_same_state(loaded, expected)


def test_the_first_format_needs_the_schedule_that_it_does_not_hold():
    plain = chain(dynamic_scale(4.0), Adam(), average(0.5))
    with pytest.raises(ValueError, match="Adam_beta1 was a schedule, which no file of the first"):
        plain.load(SAVED / "format-1.npz")
    assert plain.load(SAVED / "format-2.npz").beta1 == Linear(0.5, 0.75, steps=4)


def valley(p):
    (x, y) = p["x"]
    gy = 200 * (y - x**2)
    return float((1 - x) ** 2 + 100 * (y - x**2) ** 2), {
        "x": np.array([-2 * (1 - x) - 2 * x * gy, gy])
    }


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("minimization-1.npz", LBFGS()),
        ("minimization-adam-1.npz", Adam(0.01)),
        ("minimization-adam-2.safetensors", Adam(0.01)),
    ],
)
def test_runs_of_every_format_are_resumed(name, method):
    require(Path(name).suffix)
    found = minimize(valley, {"x": np.zeros(2)}, method, steps=8, resume=SAVED / name)
    expected = minimize(
        valley,
        {"x": np.array([-1.2, 1.0])},
        type(method)(*([0.01] * (name.count("adam")))),
        steps=8,
    )
    assert found.nit == 8
    assert [entry.value for entry in found.history] == [entry.value for entry in expected.history]


@every_suffix
def test_a_result_is_saved_in_every_format(suffix, tmp_path):
    require(suffix)
    first = minimize(valley, {"x": np.array([-1.2, 1.0])}, steps=3)
    first.save(tmp_path / f"run{suffix}")
    found = minimize(valley, {"x": np.zeros(2)}, steps=6, resume=tmp_path / f"run{suffix}")
    expected = minimize(valley, {"x": np.array([-1.2, 1.0])}, steps=6)
    assert found.fun == expected.fun
    with pytest.raises(ValueError, match=r"Result\.save: .* has the suffix"):
        first.save(tmp_path / "run.pt")


# The place of a file -------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path):
    folder = tmp_path / "none" / "such"
    with pytest.raises(
        FileNotFoundError, match=r"the folder '.*none.such' does not exist"
    ) as error:
        SGD().save(folder / "run.npz")
    assert error.value.filename == str(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=r"the folder '.*file' is no folder"):
        SGD().save(tmp_path / "file" / "run.npz")
    with pytest.raises(IsADirectoryError, match=r"SGD\.save: it is a folder"):
        SGD().save(tmp_path)


@linux
def test_permissions_are_kept_and_new_files_have_those_of_any_other(tmp_path):
    path, other = tmp_path / "run.npz", tmp_path / "other"
    other.write_text("")
    SGD().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
    for mode in (0o600, 0o640, 0o444, 0o755):
        path.chmod(mode)
        SGD(0.5).save(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert SGD().load(path).lr == 0.5


@linux
def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "data").mkdir()
    link = tmp_path / "run.npz"
    link.symlink_to("data/real.npz")  # of a file that does not exist yet
    for lr in (0.5, 0.25):
        SGD(lr).save(link)
        assert link.is_symlink()
        assert SGD().load(tmp_path / "data" / "real.npz").lr == lr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["real.npz"]


@linux
def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"SGD\.save: it is no regular file"):
        SGD().save(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


SAVER = """
import sys
import numpy as np
from instep import Adam

path, number = sys.argv[1], int(sys.argv[2])
optimizer, w = Adam(number / 1024), np.full(1000, float(number))
optimizer.update(w, w.copy())
print("ready", flush=True)
count = int(sys.argv[3])
while count:
    optimizer.save(path)
    count -= 1
"""


def saver(path, number, count):
    return subprocess.Popen(
        [sys.executable, "-c", SAVER, str(path), str(number), str(count)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def check_whole(path):
    """Raise unless a file is that of one saver, whole."""
    loaded = Adam().load(path)
    (entry,) = loaded.state_dict()["states"].values()
    number = loaded.lr * 1024
    # The mean of the first step is a tenth of the gradient.
    assert set(entry["slots"]["m"].tolist()) == {(1 - 0.9) * number}


@linux
@pytest.mark.slow
@every_format
def test_a_saver_that_is_killed_leaves_the_old_file_or_the_new_one(suffix, tmp_path):
    require(suffix)
    path, rng = tmp_path / f"run{suffix}", random.Random(0)
    stepped_by(1).save(path)
    optimizer = stepped_by(2)
    for _ in range(200):
        child = os.fork()
        if not child:  # no new interpreter: two hundred of them take minutes
            try:
                while True:
                    optimizer.save(path)
            finally:
                os._exit(1)
        signal_after(rng.uniform(0.0005, 0.02), child)
        check_whole(path)


def stepped_by(number):
    optimizer, w = Adam(number / 1024, engine="blocked"), np.full(1000, float(number))
    optimizer.update(w, w.copy())
    return optimizer


def signal_after(seconds, child):
    signal.sigtimedwait([], seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL  # it was saving until then


@linux
@pytest.mark.slow
@every_format
def test_processes_that_save_to_one_name_do_not_fail_and_nobody_reads_half(suffix, tmp_path):
    require(suffix)
    path = tmp_path / f"run{suffix}"
    savers = [saver(path, number, 25) for number in range(1, 9)]
    for one in savers:
        one.stdout.readline()
    reads = 0
    while any(one.poll() is None for one in savers):
        if path.exists():
            check_whole(path)
            reads += 1
    for one in savers:
        one.stdout.close()
        assert one.returncode == 0
    check_whole(path)
    assert reads > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


# What is no file of the kit ------------------------------------------------------------------


def good(suffix, folder):
    optimizer = Adam(Linear(0.5, 0.25, steps=3), frozen=("x",))
    optimizer.update({"w": np.ones(3), "x": np.ones(1)}, {"w": np.ones(3), "x": np.ones(1)})
    optimizer.save(folder / f"good{suffix}")
    return (folder / f"good{suffix}").read_bytes()


def check_refused_or_read(path, content):
    """Raise unless a file is refused with the one error, or is a state, and nothing changes."""
    path.write_bytes(content)
    optimizer = Adam(Linear(0.5, 0.25, steps=3), frozen=("x",))
    text = repr(optimizer)
    try:
        optimizer.load(path)
    except ValueError as error:
        assert f"Adam.load: {str(path)!r}" in str(error)  # noqa: PT017  (either may be)
        assert repr(optimizer) == text
        assert optimizer.t == 0
        return False
    return True


@every_format
def test_a_file_that_is_cut_anywhere_is_refused(suffix, tmp_path):
    require(suffix)
    content = good(suffix, tmp_path)
    for length in range(len(content)):
        assert not check_refused_or_read(tmp_path / "cut", content[:length]), length


@pytest.mark.slow
@every_format
def test_a_file_with_a_byte_flipped_is_refused_or_says_the_same(suffix, tmp_path):
    """Archives have checksums; what has none, such as times of members, says nothing."""
    require(suffix)
    content = good(suffix, tmp_path)
    expected = Adam(frozen=("x",)).load(tmp_path / f"good{suffix}").state_dict()
    for place in range(len(content)):
        for bit in (1, 128):
            changed = bytearray(content)
            changed[place] ^= bit
            if (
                check_refused_or_read(tmp_path / "flipped", bytes(changed))
                and suffix != SUFFIXES[2]
            ):
                found = Adam(frozen=("x",)).load(tmp_path / "flipped").state_dict()
                assert repr(found) == repr(expected), place


def archive(**members):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return memory.getvalue()


def npy(array=None, *, header=None, data=b"", **options):
    memory = io.BytesIO()
    if header is None:
        np.save(memory, array, **options)
        return memory.getvalue()
    text = repr(header).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


class Loud:
    """Unpickled, it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


def huge(length, descr="<f8"):
    return npy(
        header={"descr": descr, "fortran_order": False, "shape": (length,)}, data=b"12345678"
    )


def safetensors(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def headed(**changes):
    """Return an archive with another header, which is as a header is."""
    state = stepped(Adam()).state_dict()
    header = {**state, "states": {}, "overrides": [], "schedules": [], **changes}
    return archive(**{"header.npy": npy(np.array(json.dumps(header)))})


FOREIGN = {
    "empty": b"",
    "text": b"no archive",
    "pickle": pickle.dumps(Loud()),
    "zip": archive(readme="hello"),
    "empty zip": archive(),
    "no header": archive(**{"a.npy": npy(np.ones(3))}),
    "header of numbers": archive(**{"header.npy": npy(np.ones(3))}),
    "header that is no dict": archive(**{"header.npy": npy(np.array("[]"))}),
    "header that is no JSON": archive(**{"header.npy": npy(np.array("{"))}),
    "deep header": archive(**{"header.npy": npy(np.array("[" * 100_000))}),
    "long number": archive(**{"header.npy": npy(np.array("9" * 100_000))}),
    "objects": archive(**{"header.npy": npy(np.array([Loud()]), allow_pickle=True)}),
    "pickled member": archive(**{"header.npy": pickle.dumps(Loud())}),
    "large claim": archive(**{"header.npy": huge(2**60)}),
    "negative claim": archive(**{"header.npy": huge(-1)}),
    "claim beyond integers": archive(**{"header.npy": huge(10**30)}),
    "structured": archive(**{"header.npy": huge(1, [("a", "<f8")])}),
    "code": archive(**{"header.npy": npy(header="__import__('os')")}),
    "safetensors of another": safetensors(
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"a"
    ),
    "safetensors without a header": safetensors({"__metadata__": {"format": "np"}}),
    "safetensors with a large claim": safetensors(
        {"a": {"dtype": "F64", "shape": [2**60], "data_offsets": [0, 2**63]}}
    ),
    "safetensors with a large header": (2**62).to_bytes(8, "little") + b"{",
    "safetensors with no JSON": safetensors({"__metadata__": {"instep": "{"}}),
    "safetensors with a deep header": safetensors({"__metadata__": {"instep": "[" * 100_000}}),
    "format of tomorrow": headed(format=99),
    "no steps": headed(t="1"),
    "states that are none": headed(states=[]),
    "a slot that is not there": headed(
        states={"w": {"missed": 0, "scalars": {}, "slots": {"m": "m"}}}
    ),
    "no class of schedules": headed(schedules=[{"class": "os", "arguments": {}}]),
    "wrong arguments": headed(schedules=[{"class": "Linear", "arguments": {"start": "x"}}]),
    "told nothing": headed(
        schedules=[{"class": "ReduceOnPlateau", "arguments": {"start": 1.0}, "told": [1]}]
    ),
    "a schedule that is not there": headed(hyperparameters={"lr": {"schedule": 3}}),
    "a schedule in itself": headed(
        schedules=[{"class": "WarmUp", "arguments": {"steps": 1, "then": {"schedule": 0}}}]
    ),
    "something else": headed(hyperparameters={"lr": {"module": "os"}}),
    "a function": headed(hyperparameters={"lr": {"function": "os.getcwd"}}),
    "overrides": headed(overrides=[["a"]]),
    "frozen": headed(frozen=[[]]),
    "seed": headed(seed="x"),
}


def test_a_file_of_a_later_version_is_said_to_be_one(tmp_path):
    header = {**Adam().state_dict(), "format": 3, "something": "new"}
    del header["overrides"]
    content = archive(**{"header.npy": npy(np.array(json.dumps(header)))})
    (tmp_path / "later.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"later\.npz': the state has format 3, .* later version"):
        Adam().load(tmp_path / "later.npz")


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_file_of_the_kit_is_one_error(content, tmp_path):
    if content[8:9] == b"{":
        pytest.importorskip("safetensors")
    assert not check_refused_or_read(tmp_path / "foreign", content)
    with pytest.raises(ValueError, match=r"minimize: '.*foreign' is no file that"):
        minimize(valley, {"x": np.zeros(2)}, resume=tmp_path / "foreign")


def test_a_file_takes_no_more_memory_than_it_is_large(tmp_path):
    """Whatever it claims; compressed members, whose size nobody knows, are refused."""
    zeros = np.zeros(10_000_000)
    for name, content in {
        "claim": archive(**{"a.npy": huge(2**40), "header.npy": huge(2**40)})
    }.items():
        (tmp_path / name).write_bytes(content)
    np.savez_compressed(tmp_path / "compressed.npz", header=np.array("{}"), zeros=zeros)
    del zeros
    for path in tmp_path.iterdir():
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"Adam\.load"):
            Adam().load(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 1_000_000
