"""Reading: from the partitions that a consumer has to the records that `poll` and `next` hand out.

- `consumer`: the handle. `access`: its locks. `coordinator`: the group. `offsets`: where reading starts.
- `subscription`: topics, patterns or assigned partitions; `membership`: the member's side of its group.
- `subscription_state`: a reader for each assigned partition; `fetcher`: fetches and decodes one partition.
- `decode`, `record_batch`: bytes as Records, and as columns. `listener`: what a rebalance calls.
"""
