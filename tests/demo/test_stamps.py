"""The checker of stamps: it tells every prefix, and nothing but prefixes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.block.file import FileDisk
from standby.demo import stamps
from standby.demo.stamps import AREA, SLOT, NotAPrefix, StampWriter

SLOTS = 5
"""Few, so that the areas go round within a few writes."""


def written(numbers, disks: int) -> list[bytearray]:
    areas = [bytearray(SLOTS * SLOT) for _ in range(disks)]
    for number in numbers:
        put(areas, number, disks)
    return areas


def put(areas, number: int, disks: int) -> None:
    disk, offset = stamps.place(number, disks, SLOTS)
    areas[disk][offset : offset + SLOT] = stamps.stamp(number, disks)


some_disks = st.integers(1, 4)
some_writes = st.integers(0, 60)


@given(some_disks, some_writes)
def test_every_prefix_is_told(disks, count):
    assert stamps.prefix(written(range(1, count + 1), disks)) == count


@given(some_disks, st.integers(2, 60), st.data())
def test_a_lost_write_is_found_while_its_slot_was_not_used_again(disks, count, data):
    lost = data.draw(st.integers(max(1, count - SLOTS * disks + 1), count - 1))
    areas = written((number for number in range(1, count + 1) if number != lost), disks)
    with pytest.raises(NotAPrefix, match=rf"should hold write {lost}\b"):
        stamps.prefix(areas)


@given(some_disks, some_writes, st.integers(2, 10))
def test_a_write_before_its_turn_is_found(disks, count, ahead):
    areas = written(range(1, count + 1), disks)
    put(areas, count + ahead, disks)
    with pytest.raises(NotAPrefix):
        stamps.prefix(areas)


@given(st.integers(2, 4), st.integers(10, 60), st.integers(1, 10), st.data())
def test_one_disk_of_an_earlier_instant_is_found(disks, count, behind, data):
    earlier = written(range(1, count - behind + 1), disks)
    areas = written(range(1, count + 1), disks)
    disk = data.draw(st.integers(0, disks - 1))
    areas[disk] = earlier[disk]
    lost = [number for number in range(count - behind + 1, count + 1) if (number - 1) % disks == disk]
    if lost in ([], [count]):
        assert stamps.prefix(areas) == count - len(lost)
    else:
        with pytest.raises(NotAPrefix):
            stamps.prefix(areas)


@settings(max_examples=50)
@given(some_disks, st.integers(1, 60), st.data())
def test_a_single_altered_byte_is_found(disks, count, data):
    areas = written(range(1, count + 1), disks)
    disk = data.draw(st.integers(0, disks - 1))
    at = data.draw(st.integers(0, SLOTS * SLOT - 1))
    areas[disk][at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NotAPrefix):
        stamps.prefix(areas)


def test_the_message_names_the_disk_the_slot_and_what_is_there():
    areas = written(range(1, 8), 2)
    areas[1][SLOT : 2 * SLOT] = bytes(SLOT)
    with pytest.raises(NotAPrefix) as raised:
        stamps.prefix(areas)
    assert str(raised.value).startswith(
        "stamps of disk 1: slot 1 should hold write 4, as write 7 is there, but holds zeros (1 of 5 slots"
    )


def test_a_torn_write_is_called_torn():
    areas = written(range(1, 12), 1)
    areas[0][SLOTS * SLOT - 512 :] = stamps.stamp(5, 1)[:512]
    with pytest.raises(NotAPrefix, match=r"write 10 of 1 disks, torn or altered"):
        stamps.prefix(areas)


def test_the_host_writer_goes_on_behind_what_it_finds(tmp_path: Path):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(AREA + (1 << 20))
    disks = [FileDisk(path, writable=True) for path in paths]
    assert StampWriter(disks).write(1000) == 1000
    writer = StampWriter(disks)
    assert writer.last == 1000
    assert writer.write(7000) == 8000
    assert stamps.prefix_of_disks(disks) == 8000
    disks[1].write(stamps.area_of(disks[1].size).offset, memoryview(stamps.stamp(2, 3)))
    with pytest.raises(NotAPrefix, match=r"should hold write 6146.* but holds write 2\b"):
        stamps.prefix_of_disks(disks)
    for disk in disks:
        disk.close()
