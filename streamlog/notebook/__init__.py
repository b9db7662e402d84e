"""What a notebook shows of the handles, and what only a notebook needs. Extra `notebook`.

The methods of the handles that need it load it through `client/extras.py`.

- `html`: what is shown of a log, a topic, a group, a batch, a read, some records and the rows of a query
- `plots`: of a topic and of a group, by altair
- `progress`: a line that says how far a long call is, in a notebook or on a terminal
"""

from .html import of_batch, of_group, of_log, of_record_tuple, of_records, of_sql_result, of_topic
from .progress import new_progress

__all__ = [
    "new_progress",
    "of_batch",
    "of_group",
    "of_log",
    "of_record_tuple",
    "of_records",
    "of_sql_result",
    "of_topic",
]
