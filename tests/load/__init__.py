"""Many runs at once: `python -m tests.load` prints time and memory, and fails if a target is missed."""
