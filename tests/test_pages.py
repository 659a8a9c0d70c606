"""The extensions that build the documentation, and the script that looks at its pages."""

import importlib.util
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"

PAGE = """<!doctype html><html><head><meta name="viewport" content="width=device-width">
<style>body {{ margin: 0 }} .scrolls {{ overflow-x: auto }} img {{ width: 10px }}</style></head>
<body><article>{}</article></body></html>"""


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load(DOCS / "check_pages.py")


@pytest.fixture
def check(script, tmp_path, capsys):
    """Return a function: what the script says of a page that holds this, and how it ends."""
    if not any(map(shutil.which, script.BROWSERS)):
        pytest.skip("no Chromium on this machine")

    def run(*bodies):
        for number, body in enumerate(bodies):
            (tmp_path / f"page{number}.html").write_text(PAGE.format(body), "utf-8")
        status = script.main([str(tmp_path), "--shots", str(tmp_path / "shots")])
        return status, capsys.readouterr().out

    return run


def wide(width, kind="div", more=""):
    return f'<{kind} style="width: {width}px; height: 9px" {more}>wide</{kind}>'


def test_pages_that_fit_pass_and_pictures_are_taken(check, tmp_path):
    code = f'<pre class="scrolls">{wide(900)}</pre>'
    table = f'<div class="wide scrolls">{wide(900)}</div>'
    status, said = check("a word", code + table)
    assert (status, said) == (0, "2 pages in 4 modes: 0 faults\n")
    assert len(list((tmp_path / "shots").glob("*.png"))) == 8


def test_what_is_wider_than_its_place_is_told(check):
    status, said = check(
        wide(900),
        f'<div class="scrolls">{wide(900)}</div>',
        f'<div style="overflow: hidden">{wide(900)}</div>',
        f'<pre class="scrolls">{wide(1900)}</pre>',
    )
    assert status == 1
    first, second, third, fourth = (
        [line for line in said.splitlines() if line.startswith(f"page{number},")]
        for number in range(4)
    )
    for lines in (first, second, third):
        assert "390-light, 390-dark" in lines[0]
        assert "900 wide" in lines[0]
    assert "1440-light, 1440-dark" in fourth[0]  # a desk has place for code, a phone may scroll it


def test_what_is_asked_of_a_network_is_told(check):
    status, said = check('<img src="https://example.org/x.png">')
    assert status == 1
    assert "page0: asks the network for https://example.org/x.png" in said


def test_without_a_browser_the_script_says_so(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    assert script.main([str(tmp_path)]) == 0
    assert "skipped: no Chromium" in capsys.readouterr().out


def mathml(text, **options):
    nodes = pytest.importorskip("docutils.nodes", reason="Sphinx is not installed")
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    return load(DOCS / "extensions" / "mathml.py").converted(nodes.math(text, text), **options)


def test_equations_become_mathml():
    found = "".join(mathml(r"w &= \frac12 x \\ v &= y", as_block=True).split())
    assert "<mfrac><mn>1</mn><mn>2</mn></mfrac>" in found
    assert found.count("<mtr>") == 2


def test_an_equation_that_cannot_be_converted_is_named():
    with pytest.raises(ValueError, match=r"no MathML for '\\\\nonsense'"):
        mathml(r"\nonsense")


def test_lightness_is_turned_around_and_hue_is_kept():
    pytest.importorskip("matplotlib")
    pytest.importorskip("sphinx")
    turned = load(DOCS / "extensions" / "run_examples.py").turned
    assert turned("white")[:3] == pytest.approx((19 / 255, 20 / 255, 22 / 255))
    assert turned("black") == (1, 1, 1, 1)
    red, green, blue, opacity = turned((0.5, 0.1, 0.1, 0.3))
    assert red > green
    assert green == pytest.approx(blue, abs=0.01)
    assert opacity == 0.3
