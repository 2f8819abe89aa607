"""What a configuration knows of a model without loading it: origin, name, family and depth; no torch."""
