"""Helpers that upstream's users import: padding, shapes of schemas, random batches."""
