"""How good the recommendations are: every loss on real data, from the command line."""
