"""Kafka's clients as they come from their registries, and Apache Kafka itself, beside the listener."""
