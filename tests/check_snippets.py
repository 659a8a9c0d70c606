"""Check the types of examples, and of `typed_use.py`, with mypy and pyright in strict mode.

Run it as `python tests/check_snippets.py`; it needs mypy and basedpyright, which brings its own
node, and whose strict mode is that of pyright. Each page of the documentation becomes a module with
its Python blocks on the lines where they stand, so that messages name the lines of the page. What
examples leave out is not asked of them: annotations of the reader's own functions, and of empty
lists.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Of pyright's strict mode, what is not asked, and why.
NOT_ASKED = {
    "functions of the reader have no annotations": (
        *("reportMissingParameterType", "reportUnknownParameterType", "reportUnknownLambdaType"),
    ),
    "nor do empty lists, which then hold anything": (
        *("reportUnknownMemberType", "reportUnknownVariableType", "reportUnknownArgumentType"),
    ),
    "libraries that are not installed": ("reportMissingImports", "reportMissingTypeStubs"),
    "blocks are read one by one, and their loops run": (
        *("reportDuplicateImport", "reportPossiblyUnboundVariable", "reportRedeclaration"),
    ),
}

#: What is asked beyond it: an error that is ignored must be one, as for mypy.
ASKED = {"reportUnnecessaryTypeIgnoreComment": "error", "enableTypeIgnoreComments": False}

#: What is not asked of mypy either.
OF_MYPY = (
    *("--strict", "--allow-untyped-defs", "--allow-incomplete-defs", "--check-untyped-defs"),
    *("--allow-untyped-calls", "--disable-error-code=var-annotated", "--ignore-missing-imports"),
    *("--allow-redefinition", "--follow-imports=silent"),
)

#: Modules of what users call, and what in them is mathematics.
CALLED = (
    r"instep\.(\w+$|(optimizer|answering|adjusting|saving|stateful|rule|transform|composition|compound"
    r"|partitions|readings|explain|hyperparameters|schedules|transforms|distributed\.sharded"
    r"|minimization\.(minimize|lbfgs|fista|conjugate_gradient|line_search|result|derivatives)"
    r"|bridges\.(torch|optax|keras))\.)"
)
RULES = (".rule", ".scalars", ".answer_rule", ".within_bounds")


def module_of(page: Path) -> str:
    """Return the Python blocks of a page as a program, on the lines where they stand."""
    lines, is_within = [], False
    for line in page.read_text("utf-8").splitlines():
        if is_within and line.startswith("```"):
            is_within = False
        lines.append(line if is_within else "")
        is_within = is_within or line.rstrip() == "```python"
    return "\n".join(lines) + "\n"


def run(command: list[str], folder: Path) -> bool:
    """Run a checker in a folder, and return whether it found nothing."""
    return subprocess.run(command, cwd=folder, check=False).returncode == 0


def is_typed() -> bool:
    """Return whether pyright knows the type of all that users call, of the installed package.

    Rules and their slots are the mathematics, and have no annotations; nor have classes that have
    them, as pyright counts.
    """
    asked = ["--verifytypes", "instep", "--ignoreexternal", "--outputjson"]
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, *asked]
    # It looks for the package where PYTHONPATH says, and nowhere else.
    (place,) = find_spec("instep").submodule_search_locations
    where = {**os.environ, "PYTHONPATH": str(Path(place).parent)}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=where).stdout
    symbols = json.loads(found)["typeCompleteness"]["symbols"]
    called = [
        one for one in symbols if re.match(CALLED, one["name"]) and one["category"] != "class"
    ]
    unknown = [one["name"] for one in called if not (one["isTypeKnown"] or one["isTypeAmbiguous"])]
    unknown = [name for name in unknown if not name.endswith(RULES)]
    print(
        f"{len(called)} names of the package, unknown: {', '.join(unknown) or 'none'}", flush=True
    )
    return len(called) > 500 and not unknown


def main() -> int:
    """Check all pages, and return the status for the shell."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for page in PAGES:
            program = module_of(page)
            if program.strip():
                (folder / f"{page.stem.replace('-', '_')}.py").write_text(program, "utf-8")
        shutil.copy(Path(__file__).with_name("typed_use.py"), folder)
        not_asked = {rule: "none" for rules in NOT_ASKED.values() for rule in rules}
        settings = {"typeCheckingMode": "strict", "include": ["."], **not_asked, **ASKED}
        (folder / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
        python = [sys.executable, "-m"]
        is_right = run([*python, "basedpyright", "--pythonpath", sys.executable], folder)
        is_right &= run([*python, "mypy", *OF_MYPY, "--cache-dir", f"{name}/.mypy", "."], folder)
    return 0 if is_right & is_typed() else 1


if __name__ == "__main__":
    sys.exit(main())
