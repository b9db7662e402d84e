"""A table from a topic: the last value of each key counts, a tombstone deletes it, compaction removes older values.

    python examples/compacted_table.py

The dict is a view of the topic: reading the topic again gives the same dict, before and after compaction.
"""

import streamlog
from streamlog import serde

CHANGES: list[tuple[str, dict[str, str] | None]] = [
    ("u1", {"name": "Ada", "city": "London"}),
    ("u2", {"name": "Grace", "city": "New York"}),
    ("u1", {"name": "Ada", "city": "Paris"}),
    ("u3", {"name": "Alan", "city": "Wilmslow"}),
    ("u2", {"name": "Grace", "city": "Arlington"}),
    ("u3", None),  # a tombstone: u3 is deleted
]


def materialise(users: streamlog.Topic[str, dict[str, str] | None]) -> dict[str, dict[str, str]]:
    """Read the topic from its beginning into a table."""
    table: dict[str, dict[str, str]] = {}
    for record in users.read():
        if record.value is None:
            table.pop(record.key, None)
        else:
            table[record.key] = record.value
    return table


def main() -> None:
    with streamlog.open() as log:
        log.create_topic("users", cleanup_policy="compact")
        users = log.topic("users", key_serde=serde.string, value_serde=serde.json)

        for key, value in CHANGES:
            users.send(value, key=key)
        before = materialise(users)
        print(f"{sum(1 for _ in users.read())} changes give a table of {len(before)} rows:")
        for key, row in sorted(before.items()):
            print(f"  {key}: {row['name']}, {row['city']}")

        users.compact()
        kept = list(users.read())
        print(f"after compaction {len(kept)} records are left, at the same offsets:")
        for record in kept:
            print(f"  offset {record.offset}: {record.key} = {record.value}")
        after = materialise(users)

    assert before == after == {"u1": {"name": "Ada", "city": "Paris"}, "u2": {"name": "Grace", "city": "Arlington"}}
    # The tombstone stays for delete_retention_ms, so that a reader that has seen u3 also sees that it is deleted.
    assert [record.offset for record in kept] == [2, 4, 5]
    print("The table is the same before and after.")


if __name__ == "__main__":
    main()
