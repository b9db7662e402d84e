"""What works on the files of a log without opening it.

- `verify`: checks every checksum and invariant; the log may be open meanwhile. `repair`: copies what is not damaged.
"""
