"""Finds the broker, of several, whose disk does not answer, so that the others go on without it.

A disk may fail with no error: the calls do not come back, of a file server that is gone, or a USB disk that hangs. Kafka's controller
fences a broker whose session has ended. Here all brokers are in one process, so what counts is what the threads of the log see of a
disk: a broker has failed when a call of one of them has not come back for as long as a follower may lag, and for `LEAST_MS` at
least. Until then every call of the log waits at most that long for it; a thread that is in the call itself waits for the disk,
for nothing can take it out of the kernel.

`look` finds two kinds of calls: those under a lock of a replica (appends, syncs), by the locks; and those that `run_all` makes for a
thread that holds the metadata lock, or a group's, on a thread of their own. It counts looks, not time: a process that was stopped
for a minute had no disk that hung. Reads hold no lock. They are not looked for, and a disk that refuses only these is not found.

The thread that looks makes no disk call, and waits for no lock.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Sequence

from ..errors import StorageError, StreamlogError
from ..replication.fencing import calls_of, fence
from ..runtime.api import Lock
from ..runtime.threads import BackgroundThread, RawGate, SideBySide, SideTask, is_in_use, new_lock, start_beside
from ..runtime.values import refuse_to_copy
from .broker import Broker

logger = logging.getLogger("streamlog.broker")

LEAST_MS = 10_000
"""How long a call may take at least before its disk counts as one that does not answer. Kafka's broker.session.timeout.ms is 9 s."""
CHECKS = 5
"""How many looks in a row have to see a call."""
Work = tuple[tuple[Broker, ...], Callable[[], object]]
"""What is to be done, and the brokers on whose disks. Of several it is not known which one does not answer: their locks tell."""
# How long (s) the threads that wait for a lock of a fenced replica have to leave it, each time.
_LEAVE_S = (0.02, 0.1)


class DiskWatch:
    """Thread-safe. `on_hang` is called for a broker that has failed, before its replicas are fenced.

    Where no thread calls `look` (`is_looking`), what is to be done is done on the thread of the caller.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        running: Callable[[], Sequence[Broker]],
        on_hang: Callable[[Broker, StreamlogError], object],
    ) -> None:
        self._running = running
        self._on_hang = on_hang
        self._calls: dict[SideTask, tuple[Broker, ...]] = {}
        self._seen: dict[object, tuple[object, int]] = {}
        self._warned: Broker | None = None
        self.workers: list[BackgroundThread] = []
        """What does work for all brokers: another thread takes over from one that is in a call which does not come back."""
        self.is_looking = False
        self.limit_ms = LEAST_MS
        self._next_ms = 0  # before that a look does not count: the looks in a row have to take the whole limit

    # -- calls -----------------------------------------------------------------------------------------

    def run_all(self, beside: SideBySide, works: Sequence[Work]) -> list[BaseException | None]:
        """Do each of these on the disks of its brokers; the error of each. Of a disk that does not answer there is one in time."""

        def watched(tasks: Sequence[SideTask]) -> None:
            self._calls.update(zip(tasks, [brokers for brokers, _ in works], strict=True))

        try:
            return beside.run([work for _, work in works], watched)
        finally:
            for task in [each for each in list(self._calls) if each.left.is_open()]:
                self._calls.pop(task, None)

    def run_on(self, broker: Broker, work: Callable[[], object], beside: SideBySide | None = None) -> None:
        """Do this on the disk of one broker. Raises what it raises; StorageError if the disk does not answer."""
        if not self.is_looking:
            work()
            return
        (error,) = self.run_all(beside or SideBySide(), [((broker,), work)])
        try:
            if error is not None:
                raise error
        finally:
            del error  # it refers to this frame

    # -- looking ---------------------------------------------------------------------------------------

    def look(self, now_ms: int) -> int:
        """Look once; when to look again (ms of real time). One that comes earlier, as its thread does not sleep for long, is none."""
        if now_ms < self._next_ms:
            return self._next_ms
        seen: dict[object, tuple[object, int]] = {}
        hung: dict[Broker, str] = {}
        for key, broker, call, path in self._under_way():
            known = self._seen.get(key)
            looks = 1 if known is None or known[0] != call else known[1] + 1
            seen[key] = call, looks
            if looks >= CHECKS:
                hung.setdefault(broker, path)
        self._seen = seen
        for broker, path in hung.items():
            self._fail(broker, path)
        self._next_ms = now_ms + max(1, self.limit_ms // (CHECKS - 1))
        return self._next_ms

    def _under_way(self) -> list[tuple[object, Broker, object, str]]:
        """The calls that are under way: what makes it, of which broker, what tells it from the next one, and where. O(replicas)."""
        found: list[tuple[object, Broker, object, str]] = [
            (task, brokers[0], task, brokers[0].directory.path)
            for task, brokers in list(self._calls.items())
            if len(brokers) == 1 and not task.ended.is_open()
        ]
        for broker in self._running():
            if broker.hung is None:
                for replica in broker.replicas.all():
                    for number, call in enumerate(calls_of(replica)):
                        if call is not None:
                            found.append(((replica, number), broker, call, replica.log.directory))
        return found

    # -- a disk that does not answer -------------------------------------------------------------------

    def _fail(self, broker: Broker, path: str) -> None:
        if not [each for each in self._running() if each is not broker and each.hung is None]:
            if self._warned is not broker:
                self._warned = broker
                logger.error(
                    "the disk of broker %d, the last one that runs, does not answer (%s): it is waited for",
                    broker.id,
                    path,
                )
            return
        error = StorageError(
            f"The disk of broker {broker.id} does not answer: a call in {path} has not come back for {self.limit_ms / 1000:g} s. The threads "
            f"that are in such a call go on waiting. Look at the disk; when it answers, log.brokers[{broker.id}].start() starts the "
            f"broker again.",
            path=path,
            errno=errno.ETIMEDOUT,
        )
        if broker.hung is None:
            logger.error("broker %d has failed, and others lead its partitions: %s", broker.id, error)
            broker.hung = error
            self._on_hang(broker, error)
            held = [lock for replica in broker.replicas.all() for lock in fence(replica, error, new_lock)]
            start_beside(lambda: self._leave(broker, held))
        for task, brokers in list(self._calls.items()):
            if broker in brokers:
                task.end_with(error.copy())

    def _leave(self, broker: Broker, held: Sequence[Lock]) -> None:
        """Let the threads go that wait for the locks of threads that are in a call; when those have come back, close the files.

        What is written late must not meet another run of the broker: the directory stays locked until then. A thread that
        comes back in the few ms in which no thread holds its lock finds it released, which is a RuntimeError.
        """
        for wait_s in _LEAVE_S:
            for lock in held:
                with contextlib.suppress(RuntimeError):  # its thread has come back
                    lock.release()
            RawGate().wait(wait_s)
            for lock in held:
                lock.acquire()
        self._take_over()
        replicas = broker.replicas.all()
        used = [part for each in replicas for part in (each, each.log, each.commit, each.maintenance)]
        while is_in_use(used):
            RawGate().wait(_LEAVE_S[-1])
        for task, brokers in list(self._calls.items()):
            if broker in brokers:
                task.left.wait()
                self._calls.pop(task, None)
        while broker.running or broker.is_leaving:  # that it does not run is about to be recorded
            RawGate().wait(_LEAVE_S[-1])
        try:
            broker.close_late()
        except (StreamlogError, OSError) as error:
            logger.warning("closing the files of broker %d, whose disk did not answer: %s", broker.id, error)

    def _take_over(self) -> None:
        at_work = [(worker, worker.works) for worker in self.workers if worker.works % 2]
        RawGate().wait(_LEAVE_S[-1])
        for worker, works in at_work:
            if worker.works == works and self.is_looking:
                logger.warning("the background work of the log waits for a disk, and another thread goes on with it")
                worker.take_over()
