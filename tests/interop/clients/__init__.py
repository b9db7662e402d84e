"""Small programs that use a listener through clients of seven kinds, each as its users do.

A program is run as `PROGRAM BOOTSTRAP SCENARIO VARIANT`, prints "ok" and exits with 0 if all was as it should be. The driver
(`python -m tests.interop.clients`, see `driver`) then looks from Python's side at what it has left in the log. The scenarios:

- `codecs`, with the codec's name: the program creates the topic `codec-NAME` of one partition, sends 100 records with keys,
  headers and timestamps of its own to it, compressed so, and reads them back.
- `transactions`, with "-": of three transactions in the topic `tx` one is aborted; readers of committed records see 20, others 30.
  The records of `tx-in` come to `tx-out` together with the offsets of the group `tx-group`. A producer whose
  transactional id another one has taken cannot commit, where the client lets two be made in one process.
- `group`, with the assignor, or "consumer" for the protocol of KIP-848: two members of `group-NAME` share `shared-NAME` of four
  partitions, and one leaves. Each of 80 records is handled once, and all are committed.
"""
