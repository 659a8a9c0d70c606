"""`instep info`."""

import sys

import numpy as np
import pytest

import instep
from instep.commands import info
from instep.commands.cli import main


def test_info_shows_versions_engines_processor_and_gpu(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for line in ("Versions", "Engines", "Processor", "GPU", "SIMD target", "threads"):
        assert line in printed
    assert instep.__version__ in printed
    assert np.__version__ in printed


def test_info_names_every_engine_with_its_reason():
    from instep.engines import NAMES, available

    shown = info.engines()
    assert list(shown) == list(NAMES)
    for name, reason in available().items():
        assert shown[name] == (reason or "available")


@pytest.mark.parametrize("module", ["llvmlite", "cupy"])
def test_info_does_without_a_library(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.binding", None)
    text = info.report()
    assert f"{module}" in text
    unknown = {"llvmlite": "SIMD target       unknown", "cupy": "CuPy              no device"}
    assert unknown[module] in text


def test_info_says_where_the_number_of_threads_comes_from(monkeypatch):
    monkeypatch.setenv("INSTEP_NUM_THREADS", "1")
    assert info.threads().startswith("1 (")
    assert "INSTEP_NUM_THREADS=1" in info.threads()


def test_info_survives_a_wrong_number_of_threads(monkeypatch):
    monkeypatch.setenv("INSTEP_NUM_THREADS", "many")
    assert "INSTEP_NUM_THREADS must be an integer" in info.threads()
