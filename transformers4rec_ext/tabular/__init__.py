"""Batches as dicts of columns: filter, merge, transform and aggregate them."""
