"""streamlog beside its peers, measured in one run on one machine.

    python -m benchmarks                     every row, some minutes
    python -m benchmarks --quick             smaller inputs and fewer rounds, one to two minutes
    python -m benchmarks --only poll         the rows of one benchmark (may be repeated)
    python -m benchmarks --list              the names that --only knows
    python -m benchmarks --json FILE         every sample, for a later comparison
    python -m benchmarks --markdown          the table for benchmarks/README.md

The method
----------
An absolute rate says more about the machine than about the code, so every row is the ratio of two
rates that are measured in the same run. What makes the ratio fair:

- **The same records.** Keys of 8 bytes, values of 100 random bytes, made before any clock starts. One
  topic, one partition, the defaults of the library, the page cache: neither side syncs while it is timed.
- **Interleaved.** The sides take turns, A B A B, for several rounds after one round that does not count,
  so that noise of the machine affects both. The ratio is that of the medians; for "best of several", that
  of the best. All samples go into the JSON.
- **No side pays for another.** `gc.collect()` and `gc.freeze()` run before each timed block: the collector
  works as in a program, but does not walk the input. What a side wrote is deleted before the next begins.
  The round that does not count also touches the memory (on a virtual machine a page that was never touched
  costs ten times one that was), and lets the interpreter specialise the loops.
- **Pinned peers.** `baselines.py` has their code, one function each: the fastest of the idiomatic forms
  that were tried. Its docstring says which others were tried.
- **Everything is checked.** After each timed block an untimed check makes sure that all records are where
  they should be: the log end offset, the number and the bytes of what was read.

A ratio is streamlog's rate over the peer's: more is better, and the goal is a least value. For times and
memory less is better, and the goal is a greatest value (shown as ≤). Rows without a goal are for
orientation. A missing optional peer (lmdb, confluent_kafka, cramjam) is named and skipped. The exit code
says whether the measurement worked, not whether a goal was reached, because that depends on the machine.

- `records`: the input. `baselines`: the peers. `workloads`: one module for each kind of work.
- `measure`: the timing. `figures`: a row of the table. `report`: prints it. `run`: the sizes and directories of a run.
- `children`: programs that measure their own process.
"""
