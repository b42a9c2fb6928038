"""No web app that hangs keeps others from being called."""

from __future__ import annotations

from incomingd.handover.slots import Slots


def test_one_host_gets_half_of_the_slots() -> None:
    slots = Slots()
    for number in range(100):
        slots.wait(f"a{number}", "hangs.example")
    assert len(slots.take(16)) == 8


def test_a_healthy_host_is_called_beside_hanging_ones() -> None:
    slots = Slots()
    for host in ("hangs.example", "hangs-too.example"):
        for number in range(100):
            slots.wait(f"{host} {number}", host)
        slots.take(16)
    slots.wait("healthy", "healthy.example")
    assert slots.take(16) == ["healthy"]


def test_hosts_take_turns_and_nobody_is_forgotten() -> None:
    slots = Slots()
    for number in range(10):
        slots.wait(f"a{number}", "a.example")
        slots.wait(f"b{number}", "b.example")
    order = []
    while taken := slots.take(4):
        order += taken
        for upload_id in taken:
            slots.release(upload_id)
    assert sorted(order) == sorted([f"{host}{number}" for host in "ab" for number in range(10)])
    assert order[0][0] != order[1][0]
    assert len(slots) == 0


def test_one_slot_is_enough() -> None:
    slots = Slots()
    slots.wait("first", "a.example")
    slots.wait("second", "a.example")
    assert slots.take(1) == ["first"]
    assert slots.take(1) == []
    slots.release("first")
    assert slots.take(1) == ["second"]
