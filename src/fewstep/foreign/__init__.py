"""Checkpoints that others wrote: read without executing anything, and recognised.

`read_foreign(path)` gives a `Tree` of plain values, `recognise(tree, said)` the network in it, with
the weights under the names of ours. `apart` is what reads the bytes, in a process of its own.
"""
