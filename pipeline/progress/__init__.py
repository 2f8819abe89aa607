"""What runs are doing: the state of each, read from its folder alone, and how a terminal shows it."""
