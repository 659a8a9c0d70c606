"""The command line itself: what it lists, and what it does with pipes."""

import subprocess
import sys

import pytest

import instep
from instep.commands.cli import main

COMMANDS = ("compare", "bench", "info")


def printed(capsys, *arguments):
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("--help",)], ids=["alone", "help"])
def test_commands_are_listed(capsys, arguments):
    text = printed(capsys, *arguments)
    for command in COMMANDS:
        assert f"\n    {command} " in text


def test_version_is_that_of_the_package(capsys):
    assert printed(capsys, "--version") == f"instep {instep.__version__}\n"


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_help_names_every_optimizer(capsys, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = " ".join(printed(capsys, command, "--help").partition("Optimizers: ")[2].split())
    assert listed.removesuffix(".").split(", ") == sorted(instep.optimizers.__all__, key=str.lower)


@pytest.mark.parametrize("names", [["SGD,", "Adam"], ["SGD", ",Adam"], ["SGD", ",", "Adam"]])
@pytest.mark.parametrize("command", ["compare", "bench"])
def test_space_in_a_list_is_pointed_out(capsys, command, names):
    with pytest.raises(SystemExit) as stop:
        main([command, "--optimizers", *names])
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "unrecognized arguments: " in line
    assert "; write lists without spaces: SGD," in line


def test_unknown_option_is_no_list_with_a_space(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--optimizer-of-choice", "Adam"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("unrecognized arguments: --optimizer-of-choice Adam")


def test_reader_of_a_pipe_may_leave():
    code = (
        "import sys, time; sys.argv = ['instep']; from instep.commands import cli, info\n"
        "info.report = lambda: time.sleep(0.5) or 'x' * 100_000\n"
        "sys.exit(cli.main(['info']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
