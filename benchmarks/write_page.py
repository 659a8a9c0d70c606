"""Measures anew what benchmarks.md shows: the numbers, the tables and the figure.

python benchmarks/write_page.py          runs the benchmark suite, which takes minutes
python benchmarks/write_page.py --draw   draws the numbers that are there
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

import records

from instep.commands.bench import command, figures, tables

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
RESULTS, TABLES = (FOLDER / name for name in ("results.json", "tables.inc"))

sys.path.insert(0, str(ROOT / "docs"))
from themes import save  # noqa: E402 - the figures of the documentation are saved there

#: A load above it means that other work was going on.
IDLE = 0.5

TITLES = {
    **command.TITLES,
    "networks": "Real networks",
    "dtypes": "Storage dtypes",
    "shapes": "The same elements in one tensor, or in many",
    "claims": "The cases of the claims",
    "product": "All axes at once",
    "product of networks": "All networks",
}


def run() -> None:
    """Run the benchmark suite and keep its results."""
    arguments = ["benchmarks", "--benchmark-columns=median,iqr,rounds", "--record", str(RESULTS)]
    subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=True)


def draw() -> None:
    """Write tables and figure from the results that are there."""
    found = command.read(RESULTS.read_text(encoding="utf-8"))
    parts = ["## Machine", environment(found["environment"])]
    parts += titled("Claims", records.of_claims(found["claims"]))
    for table in (
        records.of_passes(found["profile"]["passes"]),
        records.of_parts(found["profile"]["parts"]),
    ):
        parts += titled(table.title, table)
    for name, title in TITLES.items():
        for table in tables.by_setting(title, found["sections"].get(name, ())):
            parts += titled(table.title, table)
    parts += titled("New processes", records.of_processes(found["processes"]))
    TABLES.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    save("bench", partial(figures.picture, found["sections"]), folder=FOLDER, width=1400)


def titled(title: str, table: tables.Table) -> list[str]:
    """Return a heading and a table; nothing for a table without rows."""
    return [f"## {title}", table.markdown()] if table.rows else []


def environment(found: dict) -> str:
    """Return the machine and the versions as a paragraph."""
    load = found["load"]
    busy = " (**other work was going on**)" if load is not None and load > IDLE else ""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['processor']} ({found['simd']}), {found['cpus']} CPUs, "
        f"{found['memory_gib']} GiB, {found['system']}, huge pages: {found['huge_pages']}; load "
        f"{load} at the start{busy}. {versions}."
    )


if sys.argv[1:] != ["--draw"]:
    run()
draw()
