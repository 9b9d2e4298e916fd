"""Benchmarks: ratios within one run, beside their floors and their best peers."""
