"""What an export is described by, and where it can be sent."""
