"""The suite itself: what it must be so that others can run it their way."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_tests_are_called_the_same_in_every_process(request):
    """They are handed out by name where several processes share them."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "20"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    there = {line for line in ran.stdout.splitlines() if "::" in line}
    here = {item.nodeid for item in request.session.items if item.nodeid.startswith("tests/")}
    assert here - there == set()
