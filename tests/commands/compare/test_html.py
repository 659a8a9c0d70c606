"""The page: alone in one file, as wide as a telephone, and with the paths of instep."""

import base64
import html as escaping
import itertools
import json
import re
import shutil
import subprocess

import pytest

import instep
from instep.commands.cli import main
from instep.commands.compare import backends, folder, html
from instep.commands.compare.paths import follow
from instep.commands.compare.style import THEMES
from instep.commands.compare.surfaces import SURFACES
from instep.commands.tables import Table

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
STEPS = 60
FORMS = list(itertools.product(THEMES, html.SHAPES))
#: Hyperparameters other than the defaults, for which the sliders stand.
SETTINGS = {
    "SGD": {"lr": 0.3},
    "Momentum": {"lr": 0.1, "momentum": 0.8},
    "Nesterov": {"lr": 0.1, "momentum": 0.8},
    "AdaGrad": {"lr": 1.5},
    "RMSProp": {"lr": 0.05},
    "Adam": {"lr": 0.3, "beta1": 0.7},
    "AdamW": {"lr": 0.3, "beta1": 0.7},
}

# A page around the page, which asks it and writes the answers down.
ASKING = """<!doctype html><body style="margin: 0"><iframe srcdoc="%s"
style="width: 390px; height: 800px; border: 0"></iframe><pre id=answers></pre><script>
document.querySelector("iframe").onload = (event) => {
  const page = event.target.contentWindow, answers = {};
  const $ = (id) => page.document.getElementById(id);
  answers.paths = %s.map((asked) => page.instepPath(...asked));
  answers.width = page.document.documentElement.scrollWidth;
  answers.figure = page.document.querySelector("figure img").currentSrc;
  const lines = (cell) => {
    const text = page.document.createRange();
    text.selectNodeContents(cell);
    return new Set([...text.getClientRects()].map((place) => place.top)).size;
  };
  answers.lines = [...page.document.querySelectorAll("th")].map(lines);
  answers.first = $("told").value;
  $("map").focus();
  answers.focused = page.document.activeElement.id;
  const press = (key, shiftKey) => $("map").dispatchEvent(
    new page.KeyboardEvent("keydown", { key, shiftKey, bubbles: true }));
  press("ArrowRight", true); press("ArrowUp", false);
  answers.start = [$("x").value, $("y").value];
  answers.moved = $("told").value;
  $("optimizer").value = "SGD";
  $("optimizer").dispatchEvent(new page.Event("input"));
  answers.disabled = $("momentum").disabled;
  answers.unnamed = [...page.document.querySelectorAll("input, select")]
    .filter((control) => !control.labels.length).map((control) => control.id);
  document.getElementById("answers").textContent = JSON.stringify(answers);
};
</script>"""


@pytest.fixture(scope="module")
def text():
    headings = ("optimizer", "lr", *(f"held-out\n{k}" for k in range(9)))
    rows = (("SGD", "1 & 2", *9 * ("0.1234",)), ("Adam", "3", *9 * ("0.1234",)))
    table = Table("A <title>", headings, rows, note="A <note>")
    figure = {(theme, shape): f"{theme} {shape} png".encode() for theme, shape in FORMS}
    return html.page({"Versions": "python 3"}, [table], {"mnist_loss": figure})


@pytest.fixture(scope="module")
def asked():
    return [
        (surface, name, settings, surface.start)
        for surface in SURFACES
        for name, settings in SETTINGS.items()
    ]


@pytest.fixture(scope="module")
def answers(text, asked, tmp_path_factory):
    """What the page answers in a browser, asked once."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    place = tmp_path_factory.mktemp("browser")
    wanted = [[surface.name, *rest, STEPS] for surface, *rest in asked]
    (place / "asking.html").write_text(
        ASKING % (escaping.escape(text), json.dumps(wanted)), encoding="utf-8"
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
    command += ["--disable-component-update", f"--user-data-dir={place / 'profile'}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", (place / "asking.html").as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r'<pre id="answers">(.+)</pre>', ran.stdout)
    if found is None and ran.returncode != 0:
        pytest.skip(f"{browser} does not start here: exit code {ran.returncode}")
    assert found is not None, ran.stdout[-2000:]
    return json.loads(escaping.unescape(found[1]))


def test_paths_in_the_page_are_those_of_instep(answers, asked):
    numpy = backends.load("numpy")
    for (surface, name, settings, _), path in zip(asked, answers["paths"], strict=True):
        optimizer = getattr(instep, name)(**settings)
        expected = follow(optimizer, surface, "constant", STEPS, numpy).points
        # The same operations on float64, but for exp and tanh, which differ in their last bits;
        # the surfaces stretch differences by less than 3 a step, and not for long.
        assert len(path) == STEPS + 1
        for here, there in zip(path, expected, strict=True):
            assert here == pytest.approx(there, rel=1e-9, abs=1e-11), (surface.name, name)


def test_page_is_no_wider_than_a_telephone(answers):
    assert answers["width"] <= 390


def test_telephone_shows_the_narrow_figure(answers):
    encoded = answers["figure"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(encoded) == b"light narrow png"


def test_headings_break_where_they_are_told_to(answers):
    assert answers["lines"] == [1, 1, *9 * [2]]


def test_start_moves_with_the_arrow_keys(answers):
    assert answers["focused"] == "map"
    assert answers["start"] == ["-6.50", "-4.90"]
    assert answers["first"].startswith("After 20 steps at (")
    assert answers["moved"] != answers["first"]


def test_controls_are_named_and_those_without_effect_disabled(answers):
    assert answers["unnamed"] == []
    assert answers["disabled"] is True


def test_explorer_has_the_defaults_of_instep():
    for name, found in html.explored()["optimizers"].items():
        assert found["lr"] == getattr(instep, name)().lr
    assert set(SETTINGS) == set(html.explored()["optimizers"])


def test_page_needs_no_network(text):
    assert re.findall(r'(?:src|href|srcset)=(?!"data:)', text) == []
    assert not re.search(r"@import|url\(|https?:|fetch\(|import\(", text)


def test_page_shows_tables_and_all_forms_of_figures(text):
    assert "A &lt;title&gt;" in text
    assert "A &lt;note&gt;" in text
    assert "<td>1 &amp; 2</td>" in text
    for theme, shape in FORMS:
        assert base64.b64encode(f"{theme} {shape} png".encode()).decode() in text
    assert re.findall(r'media="(.+?)"', text) == [
        "(prefers-color-scheme: dark) and (max-width: 40rem)",
        "(max-width: 40rem)",
        "(prefers-color-scheme: dark)",
    ]
    assert "<figcaption>Cross entropy of the batches" in text


def test_every_figure_has_a_caption_of_its_own():
    names = [file.removesuffix(".png") for file in folder.OTHERS if file.endswith(".png")]
    assert sorted(html.CAPTIONS) == sorted(names)
    assert len(set(html.CAPTIONS.values())) == len(names)


def test_command_writes_the_page_and_removes_that_of_an_earlier_run(tmp_path, capsys):
    pytest.importorskip("rich", reason="rich is in the extra 'compare'")
    arguments = ["compare", "--only", "paths", "--no-figures", "--out", str(tmp_path)]
    assert main([*arguments, "--html", "--optimizers", "SGD"]) == 0
    text = (tmp_path / folder.PAGE).read_text(encoding="utf-8")
    assert "Height above the minimum after 20 steps" in text
    assert "optimizers SGD" in text
    assert "report.html" in capsys.readouterr().out
    assert main(arguments) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"results.json"}
