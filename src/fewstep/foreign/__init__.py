"""Checkpoints that others wrote: read without executing anything, and recognised."""
