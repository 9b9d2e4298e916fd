"""Input blocks: from a batch of columns to vectors."""
