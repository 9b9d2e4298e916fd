"""The engine: reference formulas, operator schemas and the loops over tiles."""
