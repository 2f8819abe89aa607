"""The substrate: a model with named sites, facts, token positions, hooks and updates."""
