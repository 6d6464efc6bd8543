"""Mistakes that implementations of consistency models really make, each planted in one part of the
package.

A row is what is wrong, where it is planted, what stands there instead (made of the original), and
the check that must notice, by its name.
"""

from tests.planted import flow_maps, methods, noise, options, parts, trajectories

BUGS = [
    *methods.BUGS,
    *flow_maps.BUGS,
    *trajectories.BUGS,
    *parts.BUGS,
    *noise.BUGS,
    *options.BUGS,
]
