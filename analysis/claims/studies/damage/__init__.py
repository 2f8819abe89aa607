"""Studies of what a changed model loses, and which number tells it."""
