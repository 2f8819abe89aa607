"""`python -m pipeline <command>`: each module has a `main`."""
