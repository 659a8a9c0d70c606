"""The suite itself: what it must be so that others can run it their way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # they run parts of the suite

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


def run(*arguments, **environment):
    """Run a part of the suite in another process, with a cache that cannot be written."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "cache_dir=/dev/null/cache", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    printed = (ran.stdout + ran.stderr).decode(errors="replace")
    assert ran.returncode == 0, printed
    return printed


def test_what_a_shell_asks_of_programs_reaches_no_test():
    asked = {"FORCE_COLOR": "1", "COLUMNS": "30", "TZ": "Pacific/Chatham", "HOME": "/dev/null/me"}
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    run(
        "tests/commands/compare/test_command.py::test_output_is_quiet_and_plain_when_it_goes_to_no_terminal",
        "tests/commands/test_info.py",
        "tests/test_threads.py::test_the_pool_grows_to_the_threads_that_are_asked_for",
        "tests/test_threads.py::test_another_thread_takes_part",
        INSTEP_NUM_THREADS="1",
        **asked,
        **locale,
    )


def test_a_cache_that_cannot_be_written_is_no_failure():
    run("tests/commands/test_info.py")


def test_the_examples_of_a_page_run_in_one_process():
    """Each goes on where the one before it ended."""
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    assert "2 workers" in run("-v", "-n", "2", "docs/getting-started.md")
