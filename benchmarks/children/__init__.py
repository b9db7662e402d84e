"""Programs that measure the process they run in. Each prints one JSON object."""
