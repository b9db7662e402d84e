"""How long `import streamlog` takes, and which packages outside the standard library it imports.

With the first use of a name: names are imported then, and a program that imports the library uses it.
"""

import json
import sys
import time

before = set(sys.modules)
started = time.perf_counter()
import streamlog  # noqa: E402

opened = streamlog.open
seconds = time.perf_counter() - started
packages = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"seconds": seconds, "modules": sorted(packages - sys.stdlib_module_names)}))
