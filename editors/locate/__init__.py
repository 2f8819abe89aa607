"""The shared mathematics of locate-then-edit methods."""
