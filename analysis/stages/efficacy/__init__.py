"""Efficacy."""
