"""How much memory a container leaves, told by files as Linux writes them."""

import pytest

from instep.commands.bench import measuring
from instep.engines.native import control_groups

GIB = 2**30
NO_LIMIT = "9223372036854771712"  # as version 1 says it


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return what writes a file of the system; none is there before."""
    monkeypatch.setattr(control_groups, "SYSTEM", tmp_path)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="ascii")

    return write


def group(system, folder, *, limit, used, given_back, version):
    names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    system(f"sys/fs/cgroup/{folder}memory.{names[0]}", limit)
    system(f"sys/fs/cgroup/{folder}memory.{names[1]}", used)
    name = {1: "total_inactive_file", 2: "inactive_file"}[version]
    own = "inactive_file 0\n" if version == 1 else ""
    system(f"sys/fs/cgroup/{folder}memory.stat", f"anon 5\n{own}{name} {given_back}")


def test_the_tightest_group_counts(system):
    system("proc/self/cgroup", "0::/user/job")
    group(system, "user/job/", limit="max", used=GIB, given_back=0, version=2)
    group(system, "user/", limit=3 * GIB, used=2 * GIB, given_back=GIB // 2, version=2)
    group(system, "", limit=8 * GIB, used=3 * GIB, given_back=0, version=2)
    assert control_groups.memory_left() == 3 * GIB // 2
    assert measuring.free_memory() <= 3 * GIB // 2


def test_a_group_beyond_its_limit_leaves_nothing(system):
    system("proc/self/cgroup", "0::/")
    group(system, "", limit=GIB, used=2 * GIB, given_back=0, version=2)
    assert control_groups.memory_left() == 0


def test_controllers_of_their_own_are_read(system):
    system("proc/self/cgroup", "7:cpu,cpuacct:/elsewhere\n3:memory:/job\n0::/other")
    group(system, "memory/job/", limit=3 * GIB, used=GIB, given_back=GIB // 4, version=1)
    group(system, "memory/", limit=NO_LIMIT, used=9 * GIB, given_back=0, version=1)
    assert control_groups.memory_left() == 3 * GIB - 3 * GIB // 4


def test_a_container_that_does_not_see_its_path_sees_its_limit(system):
    system("proc/self/cgroup", "3:memory:/docker/0123abc")
    group(system, "memory/", limit=3 * GIB, used=GIB, given_back=0, version=1)
    assert control_groups.memory_left() == 2 * GIB


def test_both_versions_may_be_there(system):
    system("proc/self/cgroup", "2:cpu:/\n0::/job")
    group(system, "unified/job/", limit=GIB, used=0, given_back=0, version=2)
    assert control_groups.memory_left() == GIB


@pytest.mark.parametrize("membership", [None, "5:cpu:/", "0::/"])
def test_without_a_limit_the_machine_counts(system, membership, monkeypatch):
    if membership is not None:
        system("proc/self/cgroup", membership)
    assert control_groups.memory_left() is None
    monkeypatch.setattr(measuring, "_free_on_machine", lambda: 5 * GIB)
    assert measuring.free_memory() == 5 * GIB
