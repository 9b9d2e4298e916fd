"""Blocks: modules that know the size of what they return."""
