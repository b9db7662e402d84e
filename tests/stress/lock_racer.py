"""What the processes of `test_locks` do."""

from __future__ import annotations

import fcntl
import os
import signal
import time
import warnings

import streamlog

from .processes import Journal

_WAIT = 60.0


def hold(path: str, journal: str) -> None:
    """Own the log until killed."""
    log = streamlog.open(path)
    log.create_topic("t", exist_ok=True).send("x")
    Journal(journal)("held", os.getpid())
    signal.pause()


def hold_with_heir(path: str, journal: str) -> None:
    """Own the log until killed, and leave a forked child behind that does nothing."""
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork while other threads run
    log = streamlog.open(path)
    log.create_topic("t", exist_ok=True).send("x")
    heir = os.fork()
    if heir == 0:
        signal.pause()
    Journal(journal)("held", heir)
    signal.pause()


def refuse(path: str, pid: int) -> None:
    """Try to open the log, and be refused with the pid of the one that has it."""
    try:
        streamlog.open(path)
    except streamlog.LogLockedError as error:
        assert error.pid == pid, f"refused with pid {error.pid}, but {pid} has it"
        assert str(pid) in str(error)
        return
    raise AssertionError("two processes own the log")


def take(path: str) -> None:
    """Open the log at once, without waiting for anybody."""
    with streamlog.open(path) as log:
        log["t"].send("taken")


def race(path: str, folder: str, number: int, start_at: str) -> None:
    """Open the log when all do, be alone in it, leave a record, and go: in good order, killed, or refused."""
    with open(start_at) as start:
        fcntl.flock(start, fcntl.LOCK_SH)  # the parent lets go of it when all are there
    say = Journal(f"{folder}/racer-{number}")
    try:
        log = streamlog.open(path, lock_timeout=0.0 if number % 3 == 0 else _WAIT)
    except streamlog.LogLockedError as error:
        say("refused", error.pid)
        return
    os.close(os.open(f"{folder}/inside", os.O_CREAT | os.O_EXCL))  # fails if somebody else is inside
    log.create_topic("t", exist_ok=True).send(str(number))
    say("owned", number)
    os.unlink(f"{folder}/inside")
    if number % 5 == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    log.close()


def reopen(path: str, journal: str, number: int, start_at: str) -> None:
    """Open the log and close it, five times; say before each open that it is asked for, and then that it is done."""
    with open(start_at) as start:
        fcntl.flock(start, fcntl.LOCK_SH)
    say = Journal(journal)
    for _ in range(5):
        say("asks", number)
        log = streamlog.open(path, lock_timeout=_WAIT)
        say("has", number)
        time.sleep(0.005)
        log.close()
