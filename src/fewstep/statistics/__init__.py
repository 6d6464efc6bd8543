"""What two sets of samples have in common: pure functions of numbers, and of a data set's layout.

Distances, tests and statistics by kind of data; what is scored by them, and against what, stands in
`fewstep.analysis.metrics`.
"""
