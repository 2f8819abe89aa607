"""What `suggest` searches for, and what it found."""
