"""`instep compare` as a user runs it."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from instep.commands.cli import main
from instep.commands.compare import command as compare

PATHS = ["--only", "paths", "--engine", "array_api"]
NUMBERS = [*PATHS, "--no-figures"]
FIGURES = {
    "paths": {
        "surfaces.png",
        "paths_quadratic_constant.png",
        "paths_quadratic_decay.png",
        "paths_sech_constant.png",
        "paths_sech_decay.png",
        "path_heights.png",
    },
    "mnist": {"mnist_loss.png", "mnist_accuracy.png"},
}


@pytest.fixture
def extras():
    for module in ("matplotlib", "rich", "threadpoolctl"):
        pytest.importorskip(module, reason=f"{module} is in the extra 'compare'")


@pytest.fixture
def few_digits(monkeypatch):
    rng = np.random.default_rng(0)
    # A stroke at a place of its own for each class, on noise.
    images = rng.uniform(0, 0.3, size=(200, 784)).astype(np.float32)
    labels = np.arange(200) % 10
    for image, label in zip(images, labels, strict=True):
        image[78 * label : 78 * label + 30] = 1.0
    data = compare.digits.Digits("a few", images, labels, images[:50], labels[:50])
    monkeypatch.setattr(compare.digits, "small", lambda _: data)


MNIST = ["--only", "mnist", "--no-figures"]


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def refusal(capsys, *arguments):
    """Run a request that cannot be met; return its one line."""
    try:
        code = main(["compare", *arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err.strip().splitlines()[-1]


@pytest.mark.slow
def test_whole_comparison_writes_figures_and_numbers(tmp_path, extras, capsys):
    assert main(["compare", "--quick", "--out", str(tmp_path)]) == 0
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"results.json"} | FIGURES["paths"] | FIGURES["mnist"]
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in files if "png" in name)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 30e6
    printed = capsys.readouterr()
    assert "Height above the minimum after 20 steps" in printed.out
    assert "MNIST after 80 steps" in printed.out
    assert printed.err == ""
    numbers = results(tmp_path)
    assert [run["optimizer"] for run in numbers["mnist"]["runs"]] == list(compare.MNIST_OPTIMIZERS)
    for run in numbers["mnist"]["runs"]:
        assert len(run["losses"]) == 80
        assert run["held_out_accuracy"][-1] > 0.75
        assert run["train_accuracy"][0] < 0.3


def test_only_what_was_asked_for_is_done(tmp_path, extras):
    assert main(["compare", *PATHS, "--optimizers", "sgd", "--out", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"results.json"} | FIGURES["paths"]
    assert "mnist" not in results(tmp_path)


def test_points_are_written_exactly(tmp_path, extras):
    main(["compare", *NUMBERS, "--out", str(tmp_path)])
    for path in results(tmp_path)["paths"]:
        exact = [[float.fromhex(x), float.fromhex(y)] for x, y in path["points_hex"]]
        assert exact == path["points"]
        assert len(exact) == len(path["values"]) == 21


def test_all_paths_of_the_source_are_there(tmp_path, extras):
    main(["compare", *NUMBERS, "--out", str(tmp_path)])
    found = {(p["surface"], p["schedule"], p["optimizer"]) for p in results(tmp_path)["paths"]}
    assert found == {
        (surface, schedule, optimizer)
        for surface in ("quadratic", "sech")
        for schedule in ("constant", "decay")
        for optimizer in ("SGD", "Momentum", "AdaGrad", "Adam")
    }


def test_numbers_alone_are_written_where_no_figures_are_wanted(tmp_path, extras):
    assert main(["compare", *NUMBERS, "--out", str(tmp_path)]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_versions_are_written(tmp_path, extras):
    main(["compare", *NUMBERS, "--out", str(tmp_path)])
    assert results(tmp_path)["versions"]["numpy"] == np.__version__


def test_same_seed_gives_the_same_file(tmp_path, extras, few_digits):
    def written(name, *arguments):
        folder = tmp_path / name
        assert (
            main(["compare", "--no-figures", "--epochs", "2", "--out", str(folder), *arguments])
            == 0
        )
        return (folder / "results.json").read_bytes()

    assert written("first") == written("second")
    assert written("first") != written("third", "--seed", "1")


def test_numbers_do_not_depend_on_the_threads_of_blas(tmp_path, extras):
    arguments = ["--only", "mnist", "--no-figures", "--epochs", "1", "--optimizers", "SGD"]
    ran = run("compare", *arguments, "--out", str(tmp_path), OPENBLAS_NUM_THREADS="1")
    assert ran.returncode == 0, ran.stderr
    assert main(["compare", *arguments, "--out", str(tmp_path / "here")]) == 0
    assert results(tmp_path)["mnist"] == results(tmp_path / "here")["mnist"]


def test_network_learns_with_every_optimizer(tmp_path, extras, few_digits):
    arguments = ["--only", "mnist", "--epochs", "20", "--optimizers", "all", "--no-figures"]
    assert main(["compare", *arguments, "--out", str(tmp_path)]) == 0
    for run in results(tmp_path)["mnist"]["runs"]:
        assert run["losses"][-1] < run["losses"][0], run["optimizer"]


def test_diverging_optimizer_is_a_result(tmp_path, extras, few_digits):
    arguments = ["--only", "mnist", "--epochs", "3", "--optimizers", "SGD,Adam", "--lr", "SGD=1e6"]
    assert main(["compare", *arguments, "--out", str(tmp_path)]) == 0
    diverged, trained = results(tmp_path)["mnist"]["runs"]
    assert None in diverged["losses"]
    assert None not in trained["losses"]


def test_learning_rates_are_those_asked_for(tmp_path, extras, few_digits):
    rates = ["--lr", "adam=0.002", "--lr", "SGD=0.5"]
    assert main(["compare", *MNIST, "--epochs", "1", *rates, "--out", str(tmp_path)]) == 0
    found = results(tmp_path)
    assert found["request"]["lr"] == {"adam": 0.002, "SGD": 0.5}
    lrs = {run["optimizer"]: run["hyperparameters"]["lr"] for run in found["mnist"]["runs"]}
    assert lrs == {"SGD": 0.5, "Momentum": 0.01, "AdaGrad": 0.01, "RMSProp": 0.001, "Adam": 0.002}


def test_tuning_trains_with_the_rate_of_the_lowest_held_out_loss(
    tmp_path, extras, few_digits, capsys
):
    arguments = ["--epochs", "2", "--optimizers", "SGD,DoG", "--tune"]
    assert main(["compare", *MNIST, *arguments, "--lr", "DoG=2", "--out", str(tmp_path)]) == 0
    found = results(tmp_path)["mnist"]
    runs = {run["optimizer"]: run for run in found["runs"]}
    trials = {name: [t for t in found["tuning"] if t["optimizer"] == name] for name in runs}
    assert [t["lr"] for t in trials["SGD"]] == [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    assert [t["lr"] for t in trials["DoG"]] == [0.06, 0.2, 0.6, 2.0, 6.0, 20.0]
    for name in runs:
        best = min(trials[name], key=lambda trial: trial["held_out_loss"] or float("inf"))
        assert runs[name]["hyperparameters"]["lr"] == best["lr"]
        assert runs[name]["held_out_loss"][-1] == best["held_out_loss"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "Held-out loss at multiples of the learning rate" in printed
    assert printed.index("MNIST after 4 steps") < printed.index("no unbiased estimates")


def test_rates_that_nobody_has_tuned_leave_estimates_unbiased(tmp_path, extras, few_digits, capsys):
    arguments = ["--epochs", "1", "--optimizers", "SGD", "--out", str(tmp_path)]
    assert main(["compare", *MNIST, *arguments]) == 0
    assert "unbiased" not in capsys.readouterr().out


def test_losses_are_mean_cross_entropies(tmp_path, extras, few_digits):
    arguments = ["--epochs", "1", "--optimizers", "SGD", "--lr", "SGD=1e-30"]
    assert main(["compare", *MNIST, *arguments, "--out", str(tmp_path)]) == 0
    (run,) = results(tmp_path)["mnist"]["runs"]
    request = compare.Request(tmp_path)
    task = compare.training.prepare(
        compare.load_digits(request), 1, 0, compare.backends.load("numpy")
    )
    for name, images in {"train": task.train, "held_out": task.held_out}.items():
        loss, _ = compare.training.network.loss_and_gradients(np, task.initial, *images)
        # One sum in float32, and the same ones divided in another order.
        assert run[f"{name}_loss"] == pytest.approx([float(loss)] * 2, rel=1e-5)


def test_table_shows_losses_and_accuracies_of_the_same_weights(
    tmp_path, extras, few_digits, capsys
):
    assert main(["compare", *MNIST, "--epochs", "3", "--out", str(tmp_path)]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    for run in results(tmp_path)["mnist"]["runs"]:
        shown = rows[run["optimizer"]]
        assert shown[2:4] == [f"{run[f'{name}_loss'][-1]:.4f}" for name in ("train", "held_out")]
        accuracies = [f"{100 * run[f'{n}_accuracy'][-1]:.2f}" for n in ("train", "held_out")]
        assert shown[4:8:2] == accuracies


def test_figures_of_an_earlier_run_do_not_stay_beside_other_numbers(
    tmp_path, extras, few_digits, capsys
):
    (tmp_path / "mine.png").write_bytes(b"of the user")
    assert main(["compare", *PATHS, "--optimizers", "SGD", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "surfaces.png").is_file()
    capsys.readouterr()
    assert main(["compare", *MNIST, "--epochs", "1", "--out", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"mine.png", "results.json"}
    assert "removed, for they were of an earlier run: path_heights.png" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["report.html", "surfaces.png", "results.json"])
def test_files_of_the_user_are_neither_removed_nor_overwritten(tmp_path, extras, capsys, name):
    (tmp_path / name).write_text('{"hers": 1}')
    line = refusal(capsys, *MNIST, "--quick", "--out", str(tmp_path))
    assert f"holds files that no earlier run has written: {name}; give another folder" in line
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"hers": 1}'


@pytest.mark.parametrize(
    "written",
    [
        "[]",
        '{"files": ["surfaces.png"]}',
        '{"files": 3, "versions": {"instep": "1"}}',
        '{"files": ["results.json"], "versions": {"instep": "1"}}',
        '{"files": [["surfaces.png"]], "versions": {"instep": "1"}}',
    ],
)
def test_figures_that_the_numbers_beside_them_do_not_name_are_of_the_user(
    tmp_path, extras, capsys, written
):
    (tmp_path / "results.json").write_text(written)
    (tmp_path / "surfaces.png").write_bytes(b"hers")
    assert "surfaces.png" in refusal(capsys, *PATHS, "--out", str(tmp_path))
    assert (tmp_path / "surfaces.png").read_bytes() == b"hers"
    assert (tmp_path / "results.json").read_text() == written


def test_numbers_name_the_files_beside_them(tmp_path, extras):
    assert main(["compare", *PATHS, "--optimizers", "SGD", "--out", str(tmp_path)]) == 0
    assert set(results(tmp_path)["files"]) == {file.name for file in tmp_path.iterdir()}


def test_numbers_that_name_files_elsewhere_have_none_removed(tmp_path, extras):
    folder, mine = tmp_path / "results", tmp_path / "mine.png"
    mine.write_bytes(b"hers")
    folder.mkdir()
    named = {"files": ["../mine.png", str(mine)], "versions": {"instep": "1"}}
    (folder / "results.json").write_text(json.dumps(named))
    assert main(["compare", *NUMBERS, "--optimizers", "SGD", "--out", str(folder)]) == 0
    assert mine.read_bytes() == b"hers"


def test_numbers_are_written_whole_or_not_at_all(tmp_path, extras, few_digits, monkeypatch):
    arguments = ["compare", *MNIST, "--epochs", "1", "--optimizers", "SGD", "--out", str(tmp_path)]
    assert main(arguments) == 0
    before = (tmp_path / "results.json").read_bytes()

    def stopped(draft, content):
        with draft.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", stopped)
    assert main([*arguments, "--seed", "1"]) == 2
    assert (tmp_path / "results.json").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_tables_and_numbers_are_there_before_the_figures(
    tmp_path, extras, few_digits, capsys, monkeypatch
):
    def interrupted(drawings, folder):
        assert (folder / "results.json").is_file()
        assert "MNIST after" in capsys.readouterr().out
        raise KeyboardInterrupt

    monkeypatch.setattr(compare.folder, "draw", interrupted)
    assert main(["compare", "--epochs", "1", "--out", str(tmp_path)]) == 130


def test_full_set_is_read_from_its_folder(tmp_path, extras):
    rng = np.random.default_rng(0)
    for name in compare.digits.FILES:
        shape = (20, 28, 28) if "images" in name else (20,)
        header = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
        content = rng.integers(10, size=shape, dtype=np.uint8).tobytes()
        (tmp_path / name).write_bytes(header + content)
    out = tmp_path / "out"
    arguments = ["--only", "mnist", "--no-figures", "--mnist", str(tmp_path), "--out", str(out)]
    assert main(["compare", *arguments]) == 0
    assert results(out)["mnist"]["training_images"] == 20


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--backend", "abacus"], "unknown backend 'abacus'; choose one of numpy, cupy"),
        (["--engine", "steam"], "--engine steam: no such engine; choose one of auto, native"),
        (["--only", "paths,maps"], "--only maps: no such experiment; choose among paths, mnist"),
        (["--only", ","], "argument --only: expected names with commas between them"),
        (["--optimizers", "Adam,Atom"], "--optimizers Atom: unknown; choose among "),
        (["--seed", "-1"], "argument --seed: expected an integer of at least 0, got '-1'"),
        (["--seed", "one"], "argument --seed: expected an integer of at least 0, got 'one'"),
        (["--steps", "0"], "argument --steps: expected an integer of at least 1, got '0'"),
        (["--epochs", "0.5"], "argument --epochs: expected an integer of at least 1, got '0.5'"),
        (["--threads", "0"], "argument --threads: expected an integer of at least 1, got '0'"),
        (["--lr", "Adam"], "argument --lr: expected NAME=VALUE with a positive value, such as"),
        (["--lr", "Adam=-1"], "expected NAME=VALUE with a positive value, such as"),
        (["--lr", "Atom=1"], "--lr Atom: unknown; choose among AdaBelief"),
        (
            ["--lr", "Lion=1"],
            "--lr Lion=1: Lion is not compared on MNIST; add it: --opt",
        ),
        (
            ["--only", "paths", "--tune"],
            "--tune is for MNIST, and --only leaves it out; leave out one",
        ),
        (["--mnist", "/no/such"], "--mnist /no/such: no such folder; give the folder of the IDX"),
    ],
)
def test_request_that_cannot_be_met_is_one_line_and_code_2(
    tmp_path, extras, capsys, arguments, line
):
    assert line in refusal(capsys, "--out", str(tmp_path / "out"), *arguments)


def test_file_is_no_folder_to_write_to(tmp_path, extras, capsys):
    (tmp_path / "use.py").write_text("mine")
    line = refusal(capsys, *PATHS, "--out", str(tmp_path / "use.py"))
    assert "use.py is a file; give the name of a folder" in line


def test_folder_without_a_name_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--out: expected the name of a folder, got nothing" in refusal(capsys, "--out=")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_named(tmp_path, extras, capsys):
    (tmp_path / "file").write_text("")
    line = refusal(capsys, *PATHS, "--out", str(tmp_path / "file" / "folder"))
    assert "cannot be written" in line
    assert "give another folder" in line


@pytest.mark.parametrize("module", ["matplotlib", "rich", "threadpoolctl"])
def test_missing_extra_is_named(tmp_path, extras, capsys, monkeypatch, module):
    loaded = [name for name in sys.modules if name.partition(".")[0] == module]
    for name in {module, *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    line = refusal(capsys, "--epochs", "1", "--out", str(tmp_path))
    assert f"needs {module}" in line
    assert "pip install 'instep[compare]'" in line


@pytest.mark.parametrize(
    ("backend", "remedy"),
    [
        ("torch", "pip install 'torch'"),
        ("jax", "pip install 'jax'"),
        ("cupy", "pip install 'instep[cuda12]'"),
        ("array_api_strict", "pip install 'array-api-strict'"),
    ],
)
@pytest.mark.usefixtures("extras")
def test_missing_library_is_named(tmp_path, capsys, monkeypatch, backend, remedy):
    monkeypatch.setitem(sys.modules, backend, None)
    for name in [name for name in sys.modules if name.startswith(f"array_api_compat.{backend}")]:
        monkeypatch.delitem(sys.modules, name)
    line = refusal(capsys, *PATHS, "--backend", backend, "--out", str(tmp_path))
    assert f"--backend {backend} cannot be imported" in line
    assert remedy in line


def test_engine_that_cannot_take_the_arrays_is_one_line(tmp_path, extras, capsys):
    pytest.importorskip("array_api_strict")
    arguments = ["--backend", "array_api_strict", "--engine", "blocked", "--out", str(tmp_path)]
    line = refusal(capsys, *arguments)
    assert "--engine blocked --backend array_api_strict: " in line


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "instep", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("backend", ["array_api_strict", "jax"])
def test_paths_of_another_library_are_the_same_bits(tmp_path, extras, backend):
    pytest.importorskip(backend)
    for name, arguments in {"numpy": [], backend: ["--backend", backend]}.items():
        ran = run("compare", *NUMBERS, *arguments, "--out", str(tmp_path / name))
        assert ran.returncode == 0, ran.stderr
    assert results(tmp_path / "numpy")["paths"] == results(tmp_path / backend)["paths"]


def test_output_is_quiet_and_plain_when_it_goes_to_no_terminal(tmp_path, extras):
    ran = run("compare", *NUMBERS, "--out", str(tmp_path), LC_ALL="C", PYTHONUTF8="0")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert "\x1b" not in ran.stdout


def test_command_line_imports_nothing_heavy():
    code = (
        "import sys, instep.commands.cli; instep.commands.cli.parser(); "
        "print([m for m in ('matplotlib', 'rich', 'llvmlite', 'cupy') "
        "if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
