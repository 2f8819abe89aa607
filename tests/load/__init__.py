"""Many runs at once: `python -m tests.load` prints what they took, and fails where a target is missed."""
