"""Reads the bytes of foreign checkpoints in a process of its own.

By the standard library alone: `fewstep.foreign.reading` starts it as the package `apart`, so that
nothing of fewstep, torch or NumPy is imported; hence the relative imports.
"""
