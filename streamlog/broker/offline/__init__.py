"""What works on a directory that nobody has open.

- `verify`: every checksum and invariant; `repair`: a log without what is damaged; `replay`: the metadata and the groups.
"""
