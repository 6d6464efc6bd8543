"""Experiments on data whose ODE is known exactly: what a method is compared with is the truth, not a reference run."""
