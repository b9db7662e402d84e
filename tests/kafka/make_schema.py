"""Makes the table of Kafka's messages: `python -m tests.kafka.make_schema` writes `streamlog/kafka/schema.txt`.

The facts (names, types, versions, defaults, tags) come from the definitions that Apache Kafka's own code is generated
from, which lie in the jar `kafka-clients`; Maven fetches it. Nothing else of them is taken: no text, no order of files.

A message is a block of lines; `streamlog/kafka/schema.py` reads it. The first line has the name, the API key (`-` if the
message is a header or has no key), the versions, and from which version on it is flexible (`-`: in none). Each other
line is a field: name, type, then what does not go without saying:

    VERSIONS            those that have the field; all of the message without it
    null [VERSIONS]     those in which it may be null; all of the field without it
    = VALUE             its default, where that is not zero, false or empty; for `records` it is always null
    tag N [VERSIONS]    it is tagged with N
    rigid               a flexible version writes it as the others do

The fields of a structure follow it, indented. Versions are those that are stable in Kafka `VERSION`: one that is not
is left out, and with it whatever only it has.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = "4.4.0"
TABLE = Path(__file__).resolve().parents[2] / "streamlog" / "kafka" / "schema.txt"
# fmt: off
KEYS = {0, 1, 2, 3, *range(8, 27), 28, 32, *range(33, 38), 42, 43, 44, 45, 46, 47, 55, 57, 60, 61, 65, 66, 68, 69, 74, 75}
# fmt: on
DATA = (
    "RequestHeader",
    "ResponseHeader",
    "ConsumerProtocolSubscription",
    "ConsumerProtocolAssignment",
)
NOT_SAID = {"none", "", "0", "false", "0.0"}
HEAD = f"# The messages of Apache Kafka {VERSION}, made by tests/kafka/make_schema.py, which says how to read them."

Range = tuple[int, int]


def fetch_jar(directory: Path) -> Path:
    """The jar, fetched by Maven. Raises FileNotFoundError without Maven, CalledProcessError if it cannot fetch it."""
    maven = shutil.which("mvn")
    if maven is None:
        raise FileNotFoundError("mvn is not installed")
    artifact = f"org.apache.kafka:kafka-clients:{VERSION}"
    arguments = ["-B", "-q", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={directory}"]
    subprocess.run([maven, *arguments], check=True, capture_output=True, timeout=240, cwd=directory)
    return directory / f"kafka-clients-{VERSION}.jar"


def definitions(jar: Path) -> Iterator[dict[str, Any]]:
    """Kafka's definitions in the jar: JSON with comments on lines of their own."""
    with zipfile.ZipFile(jar) as archive:
        for name in archive.namelist():
            if re.fullmatch(r"common/message/\w+\.json", name):
                lines = archive.read(name).decode().splitlines()
                yield json.loads("\n".join(line for line in lines if not line.lstrip().startswith("//")))


def table(jar: Path) -> str:
    """The whole text of the table."""
    chosen = [each for each in definitions(jar) if each.get("apiKey") in KEYS or each["name"] in DATA]
    unstable = {each["apiKey"] for each in chosen if each.get("latestVersionUnstable")}  # only requests say so
    chosen.sort(key=lambda each: (each.get("apiKey", -1), each["name"]))
    return "\n\n".join([HEAD, *(block(each, each.get("apiKey") in unstable) for each in chosen)]) + "\n"


def block(definition: dict[str, Any], is_unstable: bool) -> str:
    low, high = versions(definition["validVersions"])
    high -= is_unstable
    flexible = versions(definition.get("flexibleVersions", "none"))[0]
    key = definition.get("apiKey", "-")
    first = f"{definition['name']} {key} {shown((low, high))} {'-' if flexible > high else flexible}"
    common = {each["name"]: each["fields"] for each in definition.get("commonStructs", ())}
    return "\n".join([first, *fields(definition["fields"], (low, high), common, 1)])


def fields(given: list[dict[str, Any]], within: Range, common: dict[str, Any], depth: int) -> Iterator[str]:
    for field in given:
        there = both(versions(field.get("versions") or field["taggedVersions"]), within)
        if there[0] > there[1]:
            continue
        words = [snake(field["name"]), field["type"]]
        if there != within:
            words.append(shown(there))
        nullable = both(versions(field.get("nullableVersions", "none")), there)
        if nullable[0] <= nullable[1]:
            words += ["null"] if nullable == there else ["null", shown(nullable)]
        default = str(field.get("default")).lower()
        if default not in NOT_SAID:
            words += ["=", default if default in ("null", "true") else str(int(default, 0))]
        tagged = both(versions(field.get("taggedVersions", "none")), there)
        if tagged[0] <= tagged[1]:
            words += ["tag", str(field["tag"])] + ([] if tagged == there else [shown(tagged)])
        if field.get("flexibleVersions") == "none":
            words.append("rigid")
        yield "  " * depth + " ".join(words)
        struct = field["type"].removeprefix("[]")
        yield from fields(field.get("fields") or common.get(struct, []), there, common, depth + 1)


def versions(text: str) -> Range:
    """`3+`, `0-4`, `7`, `none` as the first and the last; nothing as a range that ends before it starts."""
    if text == "none":
        return 1 << 15, -1
    low, _, high = text.partition("-")
    return (int(low[:-1]), (1 << 15) - 1) if text.endswith("+") else (int(low), int(high or low))


def both(one: Range, other: Range) -> Range:
    return max(one[0], other[0]), min(one[1], other[1])


def shown(range_: Range) -> str:
    return f"{range_[0]}-{range_[1]}"


def snake(name: str) -> str:
    """`ErrorCode` as `error_code`, `NodeID` as `node_id`, `IPs` as `ips`."""
    name = name.replace("IPs", "Ips").replace("ISR", "Isr")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        jar = Path(sys.argv[1]) if len(sys.argv) > 1 else fetch_jar(Path(directory))
        TABLE.write_text(table(jar), encoding="utf-8")


if __name__ == "__main__":
    main()
