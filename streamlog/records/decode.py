"""The one way from a verified batch to its records, whatever its payload form."""

from __future__ import annotations

from ..types import Buffer
from .batch import FORM_MASK, BatchHeader
from .columns import BatchColumns
from .kafka_v2 import KafkaColumns


def decode(header: BatchHeader, buffer: Buffer, position: int = 0) -> BatchColumns:
    """The columns of the batch at `position`; each is decoded when it is first asked for.

    REQUIRES: header and payload were verified. Raises ValueError, now or when a column is asked for, if they contradict
    each other all the same; UnsupportedCompressionTypeError and MissingExtraError for a codec.
    """
    if header.attributes & FORM_MASK:
        return KafkaColumns(buffer, position, header)
    return BatchColumns(buffer, position, header)
