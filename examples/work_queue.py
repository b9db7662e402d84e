"""A work queue: three workers share the jobs of a topic, retry jobs that fail, and set aside those that keep failing.

    python examples/work_queue.py

`ConsumerGroup.run` starts one thread per worker, each a member of the group. A job whose handler
raises is tried again (`retries`, each wait twice as long as the one before). After the last retry
`on_error="dead_letter"` copies the job to another topic, and the queue continues.
"""

import threading
from collections import Counter

import streamlog

JOBS = [f"page-{number:02}" for number in range(20)]
FLAKY = "page-07"  # fails at the first attempt
BROKEN = "page-13"  # fails at every attempt


def main() -> None:
    attempts: Counter[str] = Counter()
    done: list[str] = []
    lock = threading.Lock()

    def fetch(record: streamlog.Record) -> None:
        """Handle one job. Several threads call this at once, so shared objects need a lock."""
        job = record.value.decode()
        with lock:
            attempts[job] += 1
            attempt = attempts[job]
        if job == BROKEN or (job == FLAKY and attempt == 1):
            print(f"  {job}: attempt {attempt} failed")
            raise ConnectionError(f"{job} does not answer")
        with lock:
            done.append(job)

    with streamlog.open() as log:
        jobs = log.create_topic("jobs", partitions=6)
        failed = log.create_topic("jobs.failed")
        jobs.send_many(JOBS, keys=JOBS)

        print(f"{len(JOBS)} jobs for three workers, two retries each:")
        crawlers = log.group("crawlers")
        crawlers.run(
            fetch,
            jobs,
            workers=3,
            on_error="dead_letter",
            retries=2,
            retry_backoff_ms=10,
            dead_letter_topic=failed.name,
            until_end=True,
        )

        dead = list(failed.read())
        lag = sum(crawlers.lag().values())

    print(f"done: {len(done)}, lag: {lag}, dead letters: {[record.value.decode() for record in dead]}")
    for name, value in dead[0].headers:
        print(f"  {name}: {(value or b'').decode(errors='replace')}")
    assert sorted(done) == [job for job in JOBS if job != BROKEN], done
    assert [record.value for record in dead] == [BROKEN.encode()], dead
    assert attempts[FLAKY] == 2 and attempts[BROKEN] == 3, attempts
    assert lag == 0, lag


if __name__ == "__main__":
    main()
