"""The worked examples of the documentation run, and say what they say."""

import importlib.util
import re
import subprocess
import sys

import examples
import numpy as np
import pytest

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


@pytest.fixture(scope="module")
def phase_retrieval():
    return examples.load("phase_retrieval")


@pytest.fixture(scope="module")
def tomography():
    return examples.load("tomography")


def numbers_of(table):
    """Return the rows of a table: {first column: numbers of the others}."""
    rows = re.findall(r"^\| (\S[^|]*) \| (.*\d.*) \|$", table, re.MULTILINE)
    return {name: [float(x.replace(",", "")) for x in rest.split(" | ")] for name, rest in rows}


def test_phases_are_retrieved(phase_retrieval, capsys):
    assert phase_retrieval.main(["--steps", "60"]) == 0  # 1 if resuming changes bits
    found = capsys.readouterr().out
    rows = numbers_of(found)
    assert set(rows) == {"Adam", "FISTA", "LBFGS"}
    noise = float(re.search(r"misfit of ([\d,]+)", found)[1].replace(",", ""))
    for steps, evaluations, misfit, error in rows.values():
        assert steps in (30, 60)
        assert evaluations <= 70
        assert misfit < noise  # it is fitted to the noise, too
        assert error < 0.13
    assert "LBFGS, saved half-way and resumed: the same bits." in found


def test_the_constraint_holds_at_the_end(phase_retrieval):
    x = phase_retrieval.descend(np, "FISTA", 5).x
    outside = ~phase_retrieval.aperture()
    assert (x[outside] == 0).all()
    assert abs(x).max() <= 1 + 1e-15
    assert (phase_retrieval.descend(np, "LBFGS", 5).x[outside] == 0).all()


def test_resuming_is_told_when_bits_differ(phase_retrieval, capsys, monkeypatch):
    descend = phase_retrieval.descend

    def forgetful(*arguments, resume=None, **settings):
        return descend(*arguments, **settings)

    monkeypatch.setattr(phase_retrieval, "descend", forgetful)
    assert phase_retrieval.main(["--steps", "4"]) == 0  # the same from the start on
    monkeypatch.setattr(phase_retrieval, "resumed", lambda xp, steps: descend(xp, "LBFGS", 1))
    assert phase_retrieval.main(["--steps", "4"]) == 1
    assert "OTHER BITS" in capsys.readouterr().out


def test_gradients_of_the_examples_are_right(phase_retrieval, tomography):
    rng, far = np.random.default_rng(1), (64, 64)
    field = phase_retrieval.aperture() * np.exp(1j * rng.standard_normal(far))
    for misfit, x, way in (
        (phase_retrieval.Diffraction(np), field, rng.standard_normal((*far, 2)) @ [1, 1j]),
        (tomography.problem(size=12, angles=8), rng.random((12, 12)), rng.random((12, 12))),
    ):
        slope = np.vdot(misfit(x)[1], way).real
        ahead, behind = (misfit(x + length * way)[0] for length in (1e-4, -1e-4))
        # Differences miss the square of the length, and rounding of the value over the length.
        assert (ahead - behind) / 2e-4 == pytest.approx(slope, rel=1e-5)


def test_tomography_is_solved(tomography):
    image = tomography.phantom(16)
    misfit = tomography.problem(size=16, angles=40)
    way, images = tomography.descend(misfit, tomography.methods(1.0)["LBFGS"], 40)
    assert sorted(images) == [10, 40]
    assert (images[40] >= 0).all()
    assert np.linalg.norm(images[40] - image) < 0.2 * np.linalg.norm(image)
    assert way[-1][1] < 0.01 * way[0][1]


def test_methods_of_tomography_are_compared(tomography, capsys):
    tomography.main(["--steps", "60"])
    rows = capsys.readouterr().out.splitlines()
    assert "lowest value that a method has found" in rows[-1]
    assert [row.split(" | ")[0] for row in rows[2:6]] == [
        *("| LBFGS", "| FISTA", "| Nesterov", "| Momentum 0.9")
    ]
    assert all("more than 60" in row for row in rows[3:6])


def test_arrival_is_the_first_value_near_the_lowest(tomography):
    way = [(1, 11.0), (3, 2.0), (4, 1.0 + 9e-6), (6, 1.0)]
    assert "| a | 2 | 4 | 0e+00 |" in tomography.table({"a": way}, 1.0)
    assert "| a | more than 1 | more than 3 | 1e-01 |" in tomography.table({"a": way[:2]}, 1.0)


def test_back_is_the_adjoint_of_forward(tomography):
    projector, rng = tomography.Projector(np, 10, 7), np.random.default_rng(2)
    image, sums = rng.random((10, 10)), rng.random(projector.count)
    forward, back = projector.forward(image), projector.back(sums)
    assert forward @ sums == pytest.approx((image * back).sum(), rel=1e-13)
    dense = np.array([projector.forward(e.reshape(10, 10)) for e in np.eye(100)])
    largest = np.linalg.norm(dense, 2) ** 2
    assert projector.largest_curvature() == pytest.approx(largest, rel=1e-3)


@needs_matplotlib
@pytest.mark.parametrize(("name", "steps"), [("phase_retrieval", "3"), ("tomography", "20")])
def test_figures_are_drawn(name, steps, tmp_path):
    file = tmp_path / "figure.png"
    assert not examples.load(name).main(["--steps", steps, "--output", str(file)])
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["phase_retrieval", "tomography"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--steps", "0"], "--steps must be at least"), (["--backend", "torch"], "invalid choice")],
)
def test_wrong_arguments_are_told(name, arguments, message, capsys):
    with pytest.raises(SystemExit):
        examples.load(name).main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["phase_retrieval", "tomography"])
def test_a_missing_library_is_told_with_the_remedy(name, monkeypatch, capsys, tmp_path):
    example = examples.load(name)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit):
        example.main(["--backend", "cupy"])
    assert "--backend cupy needs that library" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="pip install matplotlib"):
        example.main(["--steps", "2", "--output", str(tmp_path / "figure.png")])


@pytest.mark.parametrize("name", ["phase_retrieval", "tomography"])
def test_importing_prints_nothing_and_draws_from_no_global_generator(name):
    code = (
        f"import sys; sys.path.insert(0, {str(examples.FOLDER)!r}); import numpy as np\n"
        f"before = np.random.get_state()[1].tolist(); import {name}\n"
        f"{name}.main(['--steps', '2'])\n"
        "assert np.random.get_state()[1].tolist() == before\n"
        "assert 'matplotlib' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("| method |")
