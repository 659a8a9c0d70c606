# ruff: noqa: SLF001  (it looks inside on purpose)
"""What other operating systems tell, or do not, and what they refuse."""

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from instep import Momentum
from instep.commands.bench import environment, system


def test_a_system_that_tells_nothing_is_described_all_the_same(monkeypatch):
    def refuse(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", refuse, raising=False)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    monkeypatch.setattr(sys, "platform", "an unknown one")
    found = environment.describe(("numpy",))
    assert found["memory_gib"] is None
    assert found["load"] is None


def test_memory_and_load_are_told_where_the_system_does():
    assert (system.total_memory() or 1 << 40) > 1 << 28
    assert (system.load_average() or 0.0) >= 0.0


@pytest.mark.parametrize(("code", "text"), [(-9, "-9"), (1, "1"), (0xC0000005, "0xc0000005")])
def test_an_exit_code_is_written_as_it_is_looked_up(code, text):
    assert system.exit_text(code) == text


def test_the_memory_of_windows_is_read_from_its_structure(monkeypatch):
    class Kernel32:
        def GlobalMemoryStatusEx(self, reference):  # noqa: N802 - the name that Windows gives it
            status = reference._obj
            assert status.length == ctypes.sizeof(status) == 64
            status.total_physical = 5 << 30
            return 1

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: Kernel32(), raising=False)
    assert system.total_memory() == 5 << 30


def test_a_file_that_cannot_be_replaced_stays_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    optimizer, w = Momentum(), np.ones(3)
    optimizer.update(w, w.copy())
    optimizer.save(path)
    before = path.read_bytes()

    def refuse(draft, target):
        raise PermissionError(13, "Access is denied", str(draft), 5, str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    optimizer.update(w, w.copy())
    with pytest.raises(PermissionError, match=r"Momentum\.save: the file cannot be replaced"):
        optimizer.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]
