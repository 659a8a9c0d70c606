"""The suite itself: what it must be so that others can run it their way."""

import argparse
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import cases
import faults
import pytest
import shares

pytestmark = pytest.mark.slow  # they run parts of the suite

ROOT = Path(__file__).parents[1]


def collected(*arguments):
    """Return the names of the tests that another process would run."""
    options = "--collect-only", "-q", "-p", "no:cacheprovider"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "20"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {line for line in ran.stdout.splitlines() if "::" in line}


@pytest.fixture(scope="module")
def every_test():
    """Return the names of all tests."""
    return collected("--share", "1/1", "tests")


def test_tests_are_called_the_same_in_every_process(request, every_test):
    """They are handed out by name where several processes share them."""
    here = {item.nodeid for item in request.session.items if item.nodeid.startswith("tests/")}
    assert here - every_test == set()


def test_shares_divide_the_tests_with_parameters():
    choice = "-m", "not slow", "tests/test_nonfinite.py"
    parts = [collected("--share", f"{number}/3", *choice) for number in (1, 2, 3)]
    whole = collected("--share", "1/1", *choice)
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)
    assert all(len(part) > len(whole) / 4 for part in parts)


@pytest.mark.parametrize(
    "choice",
    [("-m", "slow", "tests/test_nonfinite.py"), ("tests/test_house.py", "-k", "circle")],
    ids=["slow", "without parameters"],
)
def test_every_share_has_what_is_slow_or_has_no_parameters(choice):
    first, second = (collected("--share", f"{number}/2", *choice) for number in (1, 2))
    assert first == second


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "-1/2", "1/2/3", "a/b", "1/0"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="a share is"):
        shares.share(text)


@pytest.mark.parametrize(
    ("count", "file"), [(3, "tests/test_textbook.py"), (2, "tests/cuda/test_device_bits.py")]
)
def test_every_share_has_every_rule(every_test, count, file):
    names = [name for name in every_test if name.startswith(file)]
    for number in range(1, count + 1):
        part = {name for name in names if shares.has(name, number, count)}
        words = {word for name in part for word in re.findall(r"\w+", name)}
        assert {case.optimizer.__name__ for case in cases.CLASSES} <= words


@pytest.mark.parametrize("count", [5, 108, 970, 3638])
@pytest.mark.parametrize("draw", [0, 12345])
def test_lines_are_tried_from_the_first_on_and_each_at_the_end(count, draw):
    """Of those that a CI machine leaves out, more lie where a step stores nothing yet."""
    tried = faults.lines(count, 2, draw, most=48)
    found = list(itertools.takewhile(lambda line: line <= count, tried))
    assert next(tried) == count + 2  # one more would have been looked at
    assert found == sorted(set(found))
    assert found[-1] == count
    assert len(found) <= 50
    gaps = [after - before for before, after in itertools.pairwise([0, *found])]
    assert max(gaps) <= count / 8 + 2
    assert max(gaps[-4:]) <= 2


def test_lines_that_are_left_out_differ_from_test_to_test():
    found = {
        line
        for draw in range(200)
        for line in itertools.takewhile(
            lambda line: line <= 970, faults.lines(970, 1, draw, most=48)
        )
    }
    assert len(found) > 970 * 0.7
    assert set(range(1, 640)) <= found


def run(*arguments, **environment):
    """Run a part of the suite in another process, with a cache that cannot be written."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "cache_dir=/dev/null/cache", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTEST_ADDOPTS": "", **environment},  # it may ask for a share
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
