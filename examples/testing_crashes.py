"""Does my program survive a crash at any moment? Run it on the machine that each possible crash would leave.

    python examples/testing_crashes.py

The program invoices orders: it reads an order, sends an invoice, commits. It may be killed, and the power may
fail, between any two of its writes. After it has run again, every order that was confirmed to a customer has an
invoice. (It may have two: that is "at least once", and the example counts them.)
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
    """Place the orders. From the mark on the order is confirmed to the customer."""
    with open_shop(disk) as log:
        for order in ORDERS:
            log["orders"].send(order)
            disk.mark(order)


def invoice(disk: SimulatedDisk) -> None:
    """The program under test."""
    with open_shop(disk) as log, log.consumer("orders", group="billing", enable_auto_commit=False) as consumer:
        for record in consumer.until_end():
            log["invoices"].send(record.value)
            consumer.commit(record)  # if this came before the send, an invoice would be missing


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
