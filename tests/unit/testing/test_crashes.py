"""What a kill and a power loss leave of a simulated disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from streamlog.testing import SimulatedDisk

A = b"a" * 512
B = b"b" * 512
ZERO = bytes(512)


def disk_with(content: bytes = b"", *, seed: int = 0) -> SimulatedDisk:
    """A disk with a file /d/f, which is on the device with this content, and so is its directory."""
    disk = SimulatedDisk(seed)
    disk.makedirs("/d")
    disk.sync_dir("/")
    disk.write_atomic("/d/f", content)
    return disk


def losses(disk: SimulatedDisk, prefix: str = "", seeds: Iterable[int] = range(300)) -> list[SimulatedDisk]:
    """Many power losses at the present moment."""
    return [disk.power_loss(f"{prefix}{seed}") for seed in seeds]


# -- a kill ------------------------------------------------------------------------------------------


def test_a_kill_keeps_every_write_and_the_boot() -> None:
    disk = disk_with(b"old")
    disk.open("/d/f").pwrite([b"new, unsynced"], 0)
    disk.open("/g", create=True)
    after = disk.kill()
    assert (after.read("/d/f"), after.exists("/g"), after.boot_id()) == (b"new, unsynced", True, disk.boot_id())


def test_what_a_kill_kept_is_still_unsynced() -> None:
    disk = disk_with(b"old")
    disk.open("/d/f").pwrite([b"new"], 0)
    killed = disk.kill()
    assert killed.power_loss().read("/d/f") == b"old"
    killed.open("/d/f").sync()
    assert killed.power_loss().read("/d/f") == b"new"


def test_a_state_and_its_origin_share_nothing_that_changes() -> None:
    disk = disk_with(b"old")
    after, later = disk.kill(), disk.kill()
    after.open("/d/f").pwrite([b"new"], 0)
    after.open("/d/g", create=True)
    disk.unlink("/d/f")
    assert (later.read("/d/f"), later.listdir("/d")) == (b"old", ["f"])
    assert (after.read("/d/f"), after.listdir("/d")) == (b"new", ["f", "g"])


def test_killed_within_a_write_there_may_be_some_of_its_bytes() -> None:
    disk = disk_with()
    disk.open("/d/f").pwrite([b"0123456789"], 0)
    halves = [state.read("/d/f") for name, state in disk.crashes() if "kill-half" in name]
    assert halves[-1] == b"0123456789"[: len(halves[-1])] != b"0123456789"


# -- files -------------------------------------------------------------------------------------------


def test_a_power_loss_gives_another_boot_each_time() -> None:
    disk = disk_with()
    first = disk.power_loss()
    assert len({disk.boot_id(), first.boot_id(), first.power_loss().boot_id()}) == 3
    assert disk.power_loss("lax").boot_id() == first.boot_id()


def test_strictly_only_the_synced_bytes_are_left_and_laxly_all() -> None:
    disk = disk_with(b"old")
    file = disk.open("/d/f")
    file.pwrite([b"synced"], 0)
    file.sync()
    file.pwrite([b"SYN"], 0)
    file.truncate(4)
    assert disk.power_loss("strict").read("/d/f") == b"synced"
    assert disk.power_loss("lax").read("/d/f") == b"SYNc"


def test_any_of_the_unsynced_writes_survive_and_holes_are_zeros() -> None:
    disk = disk_with()
    file = disk.open("/d/f")
    file.pwrite([A], 0)
    file.pwrite([B], 512)
    found = {state.read("/d/f") for state in losses(disk)}
    assert found == {b"", A, A + B, ZERO + B, ZERO, A + ZERO, ZERO + ZERO}


def test_a_write_is_torn_at_sectors_and_nowhere_else() -> None:
    disk = disk_with(A * 3)
    disk.open("/d/f").pwrite([B * 3], 0)
    found = {state.read("/d/f") for state in losses(disk)}
    assert found == {b"".join(choice) for choice in itertools.product((A, B), repeat=3)}


def test_a_sector_is_as_some_write_left_it_and_never_a_later_one_without_an_earlier() -> None:
    disk = disk_with(bytes(4))
    file = disk.open("/d/f")
    for at in range(4):
        file.pwrite([b"x"], at)
    assert {state.read("/d/f") for state in losses(disk)} == {b"x" * n + bytes(4 - n) for n in range(5)}
    assert b"\0x\0x" in {state.read("/d/f") for state in losses(disk, "harsh-")}


def test_the_size_may_be_on_the_device_before_the_data() -> None:
    disk = disk_with(b"")
    disk.open("/d/f").pwrite([A * 8], 0)
    assert bytes(512 * 8) in {state.read("/d/f") for state in losses(disk)}


def test_a_truncation_is_unsynced_too() -> None:
    disk = disk_with(A + B)
    file = disk.open("/d/f")
    file.truncate(100)
    assert {state.read("/d/f") for state in losses(disk)} == {A + B, A[:100], A[:100] + bytes(412) + ZERO}
    file.sync()
    assert {state.read("/d/f") for state in losses(disk)} == {A[:100]}


def test_a_sync_that_failed_drops_what_readers_still_see_and_the_next_one_says_all_is_well() -> None:
    disk = disk_with(A)
    file = disk.open("/d/f")
    file.pwrite([B], 0)
    file.fail_sync()
    assert disk.read("/d/f") == B
    file.pwrite([b"tail"], 512)
    file.sync()
    assert disk.read("/d/f") == B + b"tail"
    assert {state.read("/d/f") for state in losses(disk)} == {A + b"tail"}


# -- directories -------------------------------------------------------------------------------------


def test_a_synced_file_whose_entry_is_not_synced_is_gone() -> None:
    disk = disk_with()
    file = disk.open("/d/g", create=True)
    file.pwrite([A], 0)
    file.sync()
    assert disk.power_loss().listdir("/d") == ["f"]
    disk.sync_dir("/d")
    assert disk.power_loss().read("/d/g") == A


def test_the_changes_of_a_directory_survive_in_order() -> None:
    disk = disk_with(b"old")
    disk.open("/d/1", create=True)
    disk.rename("/d/1", "/d/f")
    disk.unlink("/d/f")
    disk.open("/d/2", create=True)
    found = {
        (tuple(state.listdir("/d")), state.read("/d/f") if state.exists("/d/f") else None) for state in losses(disk)
    }
    assert found == {(("f",), b"old"), (("1", "f"), b"old"), (("f",), b""), ((), None), (("2",), None)}


def test_harsh_any_of_the_changes_survive() -> None:
    disk = disk_with()
    disk.open("/d/1", create=True)
    disk.open("/d/2", create=True)
    found = {tuple(state.listdir("/d")) for state in losses(disk, "harsh-")}
    assert found == {("f",), ("1", "f"), ("2", "f"), ("1", "2", "f")}


def test_a_rename_is_whole_or_did_not_happen() -> None:
    disk = disk_with(b"old")
    disk.open("/d/1", create=True)
    disk.sync_dir("/d")
    disk.rename("/d/1", "/d/f")
    found = {tuple(state.listdir("/d")) for state in losses(disk, "harsh-")}
    assert found == {("1", "f"), ("f",)}


def test_directories_are_independent_of_each_other() -> None:
    disk = disk_with()
    disk.makedirs("/e")
    disk.sync_dir("/")
    disk.open("/d/1", create=True)
    disk.open("/e/2", create=True)
    found = {(state.exists("/d/1"), state.exists("/e/2")) for state in losses(disk)}
    assert found == set(itertools.product((True, False), repeat=2))


def test_a_directory_whose_entry_did_not_survive_takes_everything_below_along() -> None:
    disk = SimulatedDisk()
    disk.makedirs("/x/y")
    disk.write_atomic("/x/y/f", b"synced")
    disk.sync_dir("/x")
    assert disk.power_loss().listdir("/") == []
    disk.sync_dir("/")
    assert disk.power_loss().read("/x/y/f") == b"synced"


def test_an_unlinked_file_is_back_if_its_directory_was_not_synced() -> None:
    disk = disk_with(b"old")
    disk.unlink("/d/f")
    assert disk.power_loss().read("/d/f") == b"old"
    disk.sync_dir("/d")
    assert not disk.power_loss("lax").exists("/d/f")


def test_an_atomic_write_is_the_old_file_or_the_new_one_at_every_moment() -> None:
    disk = disk_with(A)
    start = len(disk.operations)
    disk.write_atomic("/d/f", B)
    assert {state.read("/d/f") for _, state in disk.crashes(20, first=start)} == {A, B}
    assert disk.power_loss().read("/d/f") == B


# -- states by name ----------------------------------------------------------------------------------


def workload(disk: SimulatedDisk, size: int = 700) -> SimulatedDisk:
    disk.makedirs("/d")
    disk.mark("begin")
    file = disk.open("/d/f", create=True)
    for number in range(5):
        file.pwrite([bytes([number]) * size], number * 300)
        disk.mark(f"written {number}")
        if number == 2:
            file.sync()
            disk.sync_dir("/d")
            disk.sync_dir("/")
    disk.rename("/d/f", "/d/g")
    return disk


def content(disk: SimulatedDisk) -> dict[str, bytes]:
    names = disk.listdir("/d") if disk.exists("/d") else []
    return {name: disk.read(f"/d/{name}") for name in names}


def test_a_name_replays_its_state_on_this_disk_and_on_one_to_which_the_same_was_done() -> None:
    disk, twin = workload(SimulatedDisk(7)), workload(SimulatedDisk(7))
    states = list(disk.crashes(3, harsh=2))
    assert len({name for name, _ in states}) == len(states) > 60
    for name, state in reversed(states):
        for again in (disk.state(name), twin.state(name)):
            assert (again.name, content(again), again.marks, again.boot_id()) == (
                name, content(state), state.marks, state.boot_id(),
            )  # fmt: skip


def test_another_seed_is_another_choice() -> None:
    first, second = workload(SimulatedDisk(1)), workload(SimulatedDisk(2))
    assert [content(s) for _, s in first.crashes(8)] != [content(s) for _, s in second.crashes(8)]


def test_crashes_of_a_part_of_the_trace_are_those_of_the_whole() -> None:
    disk = workload(SimulatedDisk())
    whole = [name for name, _ in disk.crashes()]
    part = [name for name, _ in disk.crashes(first=5, last=9)]
    assert part
    assert [name for name in whole if 5 < int(name.split("/")[0]) < 9] == [
        name for name in part if 5 < int(name.split("/")[0]) < 9
    ]


def test_marks_say_what_had_been_promised() -> None:
    disk = workload(SimulatedDisk())
    for name, state in disk.crashes():
        done = int(name.split("/")[0])
        assert list(state.marks) == [op.name for op in disk.operations[:done] if op.kind == "mark"]
        if state.marks[-1:] == ("written 4",):
            assert len(content(state).get("f", content(state).get("g", b""))) >= 1300


def test_marks_from_before_a_crash_count_after_it() -> None:
    disk = workload(SimulatedDisk()).power_loss()
    disk.mark("recovered")
    assert disk.kill().marks == ("begin", *(f"written {n}" for n in range(5)), "recovered")


def test_states_of_a_state_are_crashes_within_the_recovery() -> None:
    disk = workload(SimulatedDisk())
    for _, state in disk.crashes(1):
        state.makedirs("/d")
        state.write_atomic("/d/recovered", b"")
        for _, again in state.crashes(1):
            assert again.exists("/d") or not again.exists("/d/recovered")


@pytest.mark.parametrize("name", ["", "12", "x/strict", "1/tight", "-1/lax", "1/harsh", "1/0@xyz"])
def test_what_is_no_name_of_a_state_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a state"):
        workload(SimulatedDisk()).state(name)


def test_a_name_of_a_later_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="after 1000 operations, but this disk has 17"):
        workload(SimulatedDisk()).state("1000/lax")


def test_a_name_from_another_trace_is_refused() -> None:
    names = [name for name, _ in workload(SimulatedDisk()).crashes()]
    other = workload(SimulatedDisk(), size=701)
    with pytest.raises(ValueError, match=r"another trace.*has changed since"):
        other.state(names[-1])


def test_there_is_half_a_write_only_of_a_write() -> None:
    with pytest.raises(ValueError, match="cannot be half done"):
        disk_with().state("1/kill-half")


def test_what_was_done_reads_like_a_list() -> None:
    disk = disk_with(b"old")
    disk.open("/d/f").truncate(1)
    assert [repr(op) for op in disk.operations] == [
        "mkdir /d",
        "sync_dir /",
        "create /d/f.tmp",
        "pwrite /d/f.tmp 3 bytes at 0",
        "sync /d/f.tmp",
        "rename /d/f.tmp to f",
        "sync_dir /d",
        "truncate /d/f to 1",
    ]
    assert repr(disk) == "<SimulatedDisk: 8 operations>"
    assert repr(disk.kill()).startswith("<SimulatedDisk 8/kill@")
