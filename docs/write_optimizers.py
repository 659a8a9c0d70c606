"""Writes a page for each optimizer, a table of their costs, and the figures of their paths.

python docs/write_optimizers.py             pages and table, and the figures that are missing
python docs/write_optimizers.py --figures   all figures anew
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import instep
from instep.commands.compare.paths import Path as Way
from instep.commands.compare.surfaces import SURFACES, Surface
from instep.engines import NAMES
from instep.graph import Graph
from instep.graph.errors import RuleError
from instep.graph.program import Program
from instep.graph.remembered import OBJECTIVE
from instep.graph.rows import Group
from instep.state import History

FOLDER = Path(__file__).parent / "optimizers"
DTYPES = ("float16", "float32", "float64", "complex64")
NAMES_OF_OPTIMIZERS = instep.optimizers.__all__

Passes = Callable[[str], tuple[Graph, ...]]

#: The n and m of a matrix for which forms are looked at.
MATRIX = (3, 4)

#: Steps of a path, and the learning rates among which the best is shown.
STEPS = 60
RATES = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))


def main(arguments: list[str]) -> None:
    """Write everything."""
    from themes import save  # needs what figures need, which pages do not

    for name, text in pages().items():
        path = FOLDER / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for optimizer in NAMES_OF_OPTIMIZERS:
        for surface in SURFACES:
            target = figure_of(optimizer, surface)
            if "--figures" in arguments or not target.exists():
                target.parent.mkdir(exist_ok=True)
                save(
                    target.stem,
                    draw(optimizer, surface),
                    folder=target.parent,
                    width=520,
                    colours=64,
                    phone=False,
                )


def pages() -> dict[str, str]:
    """Return the text of every page, by file name."""
    texts = {f"{name.lower()}.md": page(name) for name in NAMES_OF_OPTIMIZERS}
    return texts | {"costs.md": costs(), "index.md": index()}


def index() -> str:
    """Return the page that leads to the others."""
    rows = [f"| {{doc}}`{name} <{name.lower()}>` | {summary(name)} |" for name in in_order()]
    entries = [name.lower() for name in in_order()]
    return "\n".join(
        [
            "# All optimizers",
            "",
            "Each page has the equation, the defaults, what other libraries do differently, what",
            "is promised about bits, what a step costs, and the path on two surfaces. {doc}`costs`",
            "compares the costs, and {doc}`../choosing` says which to take.",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            "",
            "costs",
            *entries,
            "```",
            "",
        ]
    )


def in_order() -> list[str]:
    """Return the names as a dictionary has them."""
    return sorted(NAMES_OF_OPTIMIZERS, key=str.lower)


def summary(name: str) -> str:
    """Return the first line of the documentation of an optimizer, without its full stop."""
    return str(getattr(instep, name).__doc__).strip().splitlines()[0].rstrip(".")


def page(name: str) -> str:
    """Return the page of an optimizer."""
    pictures = "\n".join(
        f"![The path of {name} on the surface {surface.name}]"
        f"(figures/{figure_of(name, surface).name})"
        for surface in SURFACES
    )
    return f"""# {name}

```{{eval-rst}}
.. autoclass:: instep.{name}
```

{{class}}`instep.Optimizer` describes the settings from `engine` to `seed`, and the methods.

## Bits

{promise(name)}

## Cost

{cost(name)}

## Path

{{.pair}}
{pictures}

{STEPS} steps, with the learning rate among 0.001, 0.002, 0.005, ... 5000 whose path is the lowest on
the whole. The surfaces are those of {{doc}}`../experiments`.
"""


def promise(name: str) -> str:
    """Say what is promised about bits."""
    graphs = [graph for _, passes in forms(name) for graph in passes("float32")]
    called = sorted({call.name for graph in graphs for call in graph.calls})
    if called:
        functions = ", ".join(f"`{function}`" for function in called)
        return (
            f"The function {functions} is computed by the array library on whole arrays, and equal\n"
            f"between libraries and machines to rounding only. On NumPy all engines call the same\n"
            f"function on the same bits, and agree to the bit. Everything else is fused."
        )
    if any(graph.sums for graph in graphs):
        return (
            "The same on every engine, at any number of threads: the rule uses exactly rounded\n"
            "operations and canonical sums ({doc}`../numerics`)."
        )
    return (
        "The same on every engine, at any number of threads: the rule uses exactly rounded\n"
        "operations only ({doc}`../numerics`)."
    )


def costs() -> str:
    """Return the page that compares the costs of all optimizers."""
    engines = ", ".join(f"`{name}`" for name in NAMES if name != "array_api")
    return f"""# Costs

What a step of each optimizer costs, from the graph of its rule. A pass is one sweep over memory,
and a launch for all tensors of one dtype and device. The bytes are those that all passes together
read and write for each element, by the dtype of the parameters. They are the same on all engines
that fuse: {engines}. `array_api` makes a sweep for every operation.

{table(in_order())}

State is kept in the dtype of the parameters, for 16-bit parameters in float32, and for complex ones
in a real dtype where it is a square or magnitude. Where it has another shape than a matrix of n rows
and m columns, that is said. A step after the first is counted; what a function
on whole arrays reads and writes is not. {{doc}}`../complex` says what complex parameters mean: with
`complex="pairs"` an element of complex64 costs twice what one of float32 does, and all rules work.

## State in fewer bits

The same where parameters or state are kept in fewer bits ({{doc}}`../fewer-bytes`).

{fewer_bytes(in_order())}

With "master" parameters of 16 bits are kept whole in the state. Copies and means of parameters,
and state of other shapes, are kept in full.
"""


#: How parameters and state are kept: what stands above the column, the dtype of parameters, and
#: settings.
KEPT: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("float32", "float32", {}),
    ("bfloat16 state", "float32", {"state_dtype": "bfloat16"}),
    ("float8 state", "float32", {"state_dtype": "float8"}),
    ("bfloat16", "bfloat16", {}),
    ("bfloat16 state", "bfloat16", {"state_dtype": "bfloat16"}),
    ("master, bfloat16 state", "bfloat16", {"state_dtype": "bfloat16", "master": True}),
    ("master, float8 state", "bfloat16", {"state_dtype": "float8", "master": True}),
)


def fewer_bytes(names: list[str]) -> str:
    """Return the bytes that optimizers move where parameters or state have fewer bits."""
    lines = [
        "| | float32 parameters" + " |" * 3 + " bfloat16 parameters" + " |" * 4,
        "|---|" + len(KEPT) * "---|",
        "| optimizer | " + " | ".join(title for title, _, _ in KEPT) + " |",
    ]
    for name in names:
        ways = [forms(name, **settings, min_float8_size=0) for _, _, settings in KEPT]
        for i, (label, _) in enumerate(ways[0]):
            shown = " | ".join(
                bytes_moved(way[i][1], dtype) for way, (_, dtype, _) in zip(ways, KEPT, strict=True)
            )
            lines.append(f"| {{doc}}`{name} <{name.lower()}>`{label.suffix} | {shown} |")
    return "\n".join(lines)


def cost(name: str) -> str:
    """Return the costs of one optimizer as a table that is narrow."""
    found = forms(name)
    rows = [
        ["", *(label.suffix.removeprefix(", ") for label, _ in found)],
        ["state", *(label.kept() for label, _ in found)],
        ["passes", *(str(len(passes("float32"))) for _, passes in found)],
    ]
    for dtype in DTYPES:
        moved = (bytes_moved(passes, dtype) for _, passes in found)
        rows.append([f"bytes an element, {dtype}", *moved])
    lines = [" | ".join(row) for row in rows]
    lines.insert(1, "|".join(len(rows[0]) * ["---"]))
    return "\n".join(f"| {line} |" for line in lines)


def table(names: list[str]) -> str:
    """Return the costs of optimizers as a table."""
    lines = [
        f"| optimizer | state | passes | {' | '.join(DTYPES)} |",
        "|---|---|---|" + len(DTYPES) * "---|",
    ]
    for name in names:
        for label, passes in forms(name):
            shown = " | ".join(bytes_moved(passes, dtype) for dtype in DTYPES)
            title = f"{{doc}}`{name} <{name.lower()}>`{label.suffix}"
            lines.append(f"| {title} | {label.kept()} | {len(passes('float32'))} | {shown} |")
    return "\n".join(lines)


def bytes_moved(passes: Passes, dtype: str) -> str:
    """Return the bytes of a step for an element; a dash where a rule has no meaning."""
    try:
        return f"{round(sum(graph.bytes_per_element for graph in passes(dtype)), 2)} B"
    except RuleError:
        return "-"


class Form:
    """One way in which an optimizer updates arrays, which may depend on their shape."""

    def __init__(self, program: Program, suffix: str) -> None:
        self.program, self.suffix = program, suffix
        self.state = [f"`{slot}`" for slot in program.slots]
        for slot, shape in program.whole_shapes(MATRIX).items() if program.whole else ():
            letters = " by ".join("nm"[MATRIX.index(side)] for side in shape)
            self.state.append(f"`{slot}`" if shape == MATRIX else f"`{slot}` ({letters})")

    def kept(self) -> str:
        """Return what is kept for a parameter."""
        remembered = (name for name in self.program.remembered if name != OBJECTIVE)
        return (
            ", ".join([*self.state, *(f"`{name}` (one number)" for name in remembered)]) or "none"
        )


def forms(name: str, **settings: Any) -> list[tuple[Form, Passes]]:
    """Return the forms of an optimizer, each with the passes by dtype."""
    base = Program(getattr(instep, name)(**settings))
    row = base.row(1000, Group({}, 0, History(0, base.memory())))
    programs = {shape: base.for_shape(shape) for shape in (MATRIX, (3,))}
    several = len(set(map(id, programs.values()))) > 1
    found = []
    for shape, program in programs.items() if several else [(MATRIX, programs[MATRIX])]:
        suffix = {2: ", matrices", 1: ", other arrays"}[len(shape)] if several else ""

        def passes(dtype: str, program: Program = program) -> tuple[Graph, ...]:
            return program.passes(dtype, row.flags)

        found.append((Form(program, suffix), passes))
    return found


def figure_of(name: str, surface: Surface, suffix: str = "") -> Path:
    """Return the file of the figure of a path, for light pages or `_dark` ones."""
    return FOLDER / "figures" / f"{name.lower()}_{surface.name}{suffix}.png"


def draw(name: str, surface: Surface) -> Callable[[], Any]:
    """Follow an optimizer; return what draws its path on a surface."""
    from instep.commands.compare.figures import draw_contours, draw_path
    from instep.commands.compare.style import canvas

    rate, way = best(name, surface)

    def drawn() -> Any:
        with canvas(4.6, 3.3) as figure:
            axes = figure.subplots()
            draw_contours(axes, surface)
            draw_path(axes, way)
            axes.set_title(f"lr = {rate:g}", loc="left", fontsize=9.5)
            axes.set(xlabel="$x$", ylabel="$y$")
        return figure

    return drawn


def best(name: str, surface: Surface) -> tuple[float, Way]:
    """Return the learning rate whose path is the lowest on the whole, and that path."""
    ways = [(rate, follow(name, rate, surface)) for rate in RATES]
    return min(
        (way for way in ways if len(way[1].points) > STEPS), key=lambda way: sum(way[1].heights)
    )


def follow(name: str, rate: float, surface: Surface) -> Way:
    """Return the path of an optimizer; the point is a matrix of one row for Muon."""
    optimizer = getattr(instep, name)(lr=rate, engine="blocked")
    params = {"point": np.array([surface.start])}
    points = [surface.start]
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            x, y = params["point"][0].tolist()
            if max(abs(x), abs(y)) > 1e3:
                break
            grads = {"point": np.array([surface.gradient(x, y)])}
            optimizer.update(params, grads, value=surface.value(x, y) - surface.minimum)
            answer = optimizer.answer(params)
            points.append(tuple(answer["point"][0].tolist()))
    return Way(surface, "constant", name, {}, tuple(points))


if __name__ == "__main__":
    main(sys.argv[1:])
