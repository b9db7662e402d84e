"""Simulations: many replicas, brokers or clients on one thread, with simulated time, files and schedule, from a seed."""
