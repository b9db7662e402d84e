"""Kafka Streams, unmodified, on a listener: see `__main__`."""
