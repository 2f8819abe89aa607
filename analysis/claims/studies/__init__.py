"""The papers' experiments: what each asks, which claims it tests, what its page shows."""
