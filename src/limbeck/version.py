"""Limbeck's version: results of another version are made anew."""

__version__ = "0.13.0"
