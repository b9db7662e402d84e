"""The tests of SQL and of Arrow with each DuckDB that `log.sql` is promised to work with: `python -m tests.interop.duckdb_versions`.

Each version is installed in a directory of its own, which comes before the one that is installed here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("1.4", "1.5", "2.0")
TESTS = ("tests/behaviour/test_sql.py", "tests/behaviour/test_arrow.py")
LIMIT_S = 900


def run(version: str) -> bool:
    """Whether the tests pass with the newest release of this version."""
    with tempfile.TemporaryDirectory(prefix="duckdb-") as directory:
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            directory,
            f"duckdb=={version}.*",
        ]
        subprocess.run(install, check=True, timeout=LIMIT_S)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([directory, str(ROOT)])}
        which = "import duckdb; print(duckdb.__version__)"
        found = subprocess.run(
            [sys.executable, "-c", which],
            env=environment,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        print(f"DuckDB {found.stdout.strip()}", flush=True)
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        return subprocess.run(tests, env=environment, cwd=ROOT, timeout=LIMIT_S).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS, metavar="VERSION")
    failed = [version for version in parser.parse_args().versions if not run(version)]
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
