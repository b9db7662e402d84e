"""Does my program survive a crash at any moment? Put the machine as a crash would leave it, at every moment, and look.

    python examples/testing_crashes.py

The program invoices orders: it reads an order, sends an invoice, commits. It may be killed, and the power may
fail, between any two of its writes. Whatever happens, after it has run again every order that a customer was
told is placed has an invoice. (It may have two: that is "at least once", and the example counts them.)
"""

from collections import Counter

import streamlog
from streamlog.testing import ManualClock, SimulatedDisk

ORDERS = ["book", "lamp", "chair"]


def open_shop(disk: SimulatedDisk) -> streamlog.StreamLog:
    log = streamlog.open("shop", disk=disk, sync=True, clock=ManualClock())
    log.create_topic("orders", exist_ok=True)
    log.create_topic("invoices", exist_ok=True)
    return log


def place(disk: SimulatedDisk) -> None:
    """What the shop does. The mark says from when on a customer relies on it."""
    with open_shop(disk) as log:
        for order in ORDERS:
            log["orders"].send(order)
            disk.mark(order)


def invoice(disk: SimulatedDisk) -> None:
    """The program under test."""
    with open_shop(disk) as log, log.consumer("orders", group="billing", enable_auto_commit=False) as consumer:
        for record in consumer.until_end():
            log["invoices"].send(record.value)
            consumer.commit(record)  # before the send, and an invoice would be missing: try it


def invoices(disk: SimulatedDisk) -> Counter[str]:
    """How many invoices each order has on this machine."""
    with open_shop(disk) as log:
        return Counter(record.value.decode() for record in log["invoices"].read())


def main() -> None:
    disk = SimulatedDisk(seed=1)
    place(disk)
    invoice(disk)
    states = twice = 0
    for name, machine in disk.crashes(random=2):
        invoice(machine)  # the program is started again after the crash
        found = invoices(machine)
        missing = set(machine.marks) - set(found)
        assert not missing, f"{missing} have no invoice; disk.state({name!r}) is the machine that lost them"
        states += 1
        twice += any(count > 1 for count in found.values())
    print(f"{states} crashes, no order without an invoice; after {twice} of them one was sent twice")


if __name__ == "__main__":
    main()
