"""streamlog beside its peers, measured in one run on one machine.

    python -m benchmarks                     every row, some minutes
    python -m benchmarks --quick             smaller inputs and fewer rounds, under a minute
    python -m benchmarks --only poll         the rows of one benchmark (may be repeated)
    python -m benchmarks --list              the names that --only knows
    python -m benchmarks --json FILE         every sample, for a later comparison
    python -m benchmarks --markdown          the table as it stands in README.md

The method
----------
An absolute rate says more about the machine than about the code, so every row is a ratio of two
rates taken side by side. What makes the ratio fair:

- **The same records.** Keys of 8 bytes, values of 100 random bytes, made once and before any
  clock starts. One topic, one partition, the defaults of the library, the page cache: nothing
  is synced to the device while the clock runs, on either side.
- **Interleaved.** The sides take turns, A B A B, for several rounds after one round that is
  thrown away. A neighbour's noise then hits both. The ratio is that of the medians; where the
  goal says "best of several", that of the best. All samples go into the JSON.
- **No one pays for another's rubbish.** `gc.collect()` and `gc.freeze()` before each timed
  stretch: the collector runs as it would in a program, but does not walk the input. What a side
  wrote is deleted before the next begins. The round that is thrown away also
  touches the memory (on a virtual machine a page that was never touched costs ten times one
  that was) and lets the interpreter specialise the loops.
- **Pinned peers.** `baselines.py` has their code, one function each. Of the idiomatic forms that
  were tried the fastest is pinned, and its docstring says which others were tried.
- **Nothing is believed.** Each timed stretch is followed by an untimed check that all records
  are where they should be: the log end offset, the number and the bytes of what was read.

A ratio is streamlog's rate over the peer's, so more is better and the goal is "at least"; for
times and memory it is streamlog's figure over the peer's, less is better and the goal is "at
most" (shown as ≤). Rows without a goal are shown for orientation. A missing optional peer (lmdb,
confluent_kafka, cramjam) is named and skipped. The exit code says whether the measuring worked,
never whether a figure was reached: that depends on the machine, and tests must not.

The files: `records` makes the input, `baselines` are the peers, `workloads/` holds one module
per kind of work, `measure` keeps the clock, `figures` knows what a row is, `report` prints,
`children/` holds what must run in a process of its own.
"""
