"""Outputs: what others see of the store. Each is read-only, optional, and an extra of its own."""
