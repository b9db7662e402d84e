"""Records as Arrow's columns, for data frames and SQL. Extra `arrow`: pyarrow.

The methods of the handles that need it load it through `client/extras.py`.

- `columns`: from batches of records to `pyarrow.RecordBatch`
- `fields`: values with a schema as typed columns
- `sql`, `prune`: queries of DuckDB over topics, and what they need not read
- `records`: some records, deserialized already, as a table
- `export`: a read as a stream of Arrow, as a table, and as a lazy frame of polars
"""

from .export import arrow_schema, arrow_stream, scan, to_arrow
from .fields import ValueFields
from .records import records_to_arrow

__all__ = [
    "ValueFields",
    "arrow_schema",
    "arrow_stream",
    "records_to_arrow",
    "scan",
    "to_arrow",
]
