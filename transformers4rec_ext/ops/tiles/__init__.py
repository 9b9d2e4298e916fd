"""The loops over tiles: GEMMs by the BLAS and one pass over each tile while it is in cache."""
