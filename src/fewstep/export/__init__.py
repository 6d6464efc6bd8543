"""Generators out: one way to sample a run, as a file that needs no fewstep.

`contents.prepare(generator, steps=...)` says what is exported, `writing.export` writes it by one of
`writing.TARGETS`.
"""
