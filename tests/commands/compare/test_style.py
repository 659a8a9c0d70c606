"""The palette, in numbers: apart in grey, under colour blindness, and from the ground."""

import itertools

import numpy as np
import pytest

from instep.commands.bench import figures
from instep.commands.compare import style

# Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Linear sRGB to CIE XYZ under D65 (IEC 61966-2-1).
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colours):
    """Return colours in hexadecimal digits as linear RGB."""
    values = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """Return CIELAB coordinates of linear RGB."""
    ratio = rgb @ TO_XYZ.T / TO_XYZ.sum(axis=1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def nearest(colours, blindness="none"):
    """Return the smallest distance of two colours in CIELAB, and which."""
    seen = lab(np.clip(linear(colours.values()) @ np.transpose(BLINDNESS[blindness]), 0, 1))
    pairs = itertools.combinations(zip(colours, seen, strict=True), 2)
    return min((np.linalg.norm(a - b), (first, other)) for (first, a), (other, b) in pairs)


def test_measure_tells_what_is_known():
    assert lab(linear(["#ffffff"])) == pytest.approx(np.array([[100, 0, 0]]), abs=0.02)
    # Two of the palette of Okabe and Ito, which thin lines show as one grey under deuteranopia.
    before = {"AdaGrad": "#009e73", "RMSProp": "#cc79a7"}
    assert nearest(before)[0] > 80
    assert nearest(before, "deuteranopia")[0] < 18


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("theme", style.THEMES.values(), ids=style.THEMES)
def test_colours_are_apart_under_colour_blindness(theme, blindness):
    # 2.3 is just noticeable in large patches; lines are thin. Tritanopia is rare: one in 10,000.
    distance, pair = nearest(theme.optimizers, blindness)
    assert distance > (20 if blindness == "tritanopia" else 24), pair


@pytest.mark.parametrize("theme", style.THEMES.values(), ids=style.THEMES)
def test_colours_are_apart_in_grey(theme):
    lightness = np.sort(lab(linear(theme.optimizers.values()))[:, 0])
    assert np.diff(lightness).min() > 6


@pytest.mark.parametrize("theme", style.THEMES.values(), ids=style.THEMES)
def test_colours_stand_out_from_the_ground(theme):
    (ground,) = linear([theme.ground]) @ TO_XYZ[1]
    # The contrast that WCAG 2.1 asks of graphics, and of text.
    for colours, least in ((theme.optimizers.values(), 3.0), ((theme.ink, theme.faint), 4.5)):
        for colour, light in zip(colours, linear(colours) @ TO_XYZ[1], strict=True):
            low, high = sorted((light, ground))
            assert (high + 0.05) / (low + 0.05) >= least, colour


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_contenders_of_a_benchmark_are_apart(blindness):
    # Those that share a colour never meet: some are on a CPU, some on a GPU.
    apart = dict.fromkeys(map(figures.colour, figures.PLACES))
    distance, pair = nearest({colour: colour for colour in apart}, blindness)
    assert distance > 18, pair


def test_optimizers_look_different_in_shape_too():
    shapes = [(str(dashes), marker) for dashes, marker in style.STROKES.values()]
    assert len({dashes for dashes, _ in shapes}) == len({marker for _, marker in shapes}) == 7
    assert list(style.STROKES) == list(style.LIGHT.optimizers) == list(style.DARK.optimizers)


def test_optimizers_beyond_the_palette_take_its_free_places():
    found = style.strokes(["Lion", "SGD", "Tiger"])
    assert found["SGD"]["color"] == style.LIGHT.optimizers["SGD"]
    assert len({str(line["color"]) for line in found.values()}) == 3
    assert len({str(line["linestyle"]) for line in found.values()}) == 3


def test_theme_holds_inside_and_no_longer():
    assert style.theme() is style.LIGHT
    with style.themed(style.DARK):
        assert style.theme() is style.DARK
    assert style.theme() is style.LIGHT


def test_narrow_figures_have_one_column_inside_and_no_longer():
    assert style.columns(4) == 4
    with style.narrowed():
        assert (style.columns(4), style.columns(1)) == (1, 1)
        with style.narrowed(2):
            assert (style.columns(4), style.columns(1)) == (2, 1)
    assert style.columns(4) == 4


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.55, 0.45, 0.5], [0.6, 0.4, 0.5]),
        ([0.0, 0.5, 0.52, 1.0], [0.0, 0.46, 0.56, 1.0]),
        ([], []),
    ],
)
def test_labels_move_apart_and_no_further(places, expected):
    assert style.apart(places, 0.1) == pytest.approx(expected)
