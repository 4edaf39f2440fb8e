"""Soft targets on disk."""
