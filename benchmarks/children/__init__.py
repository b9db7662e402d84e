"""Programs that measure the process they run in. Each prints one JSON object."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def results_of(module: str, arguments: Sequence[Sequence[str]], **environment: str) -> list[Any]:
    """Run a module of this package once for each list of arguments, all at once, and return the JSON that each prints."""
    search_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    children = [
        subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.children.{module}", *each],
            env={**os.environ, "PYTHONPATH": search_path, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        for each in arguments
    ]
    try:
        printed = [child.communicate(timeout=300)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    if failed := [child.returncode for child in children if child.returncode]:
        raise RuntimeError(f"benchmarks.children.{module} failed with {failed}")
    return [json.loads(text) for text in printed]
