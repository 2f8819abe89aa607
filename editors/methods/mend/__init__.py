"""Mend."""
