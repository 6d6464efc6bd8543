"""Reads the bytes of foreign checkpoints in a process of its own.

By the standard library alone: `fewstep.foreign.reading` starts it as the package `apart`, so that
nothing of fewstep, torch or NumPy is imported; hence the relative imports. It starts in 30 ms, also
since it has no dataclasses, whose import takes a third of that.
"""
