"""Interactive."""
