"""How long `import streamlog` takes, and which packages outside the standard library it imports."""

import json
import sys
import time

before = set(sys.modules)
started = time.perf_counter()
import streamlog  # noqa: E402, F401

seconds = time.perf_counter() - started
packages = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"seconds": seconds, "modules": sorted(packages - sys.stdlib_module_names)}))
