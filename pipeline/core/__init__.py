"""Core: what becomes of text, worked out in memory alone."""
