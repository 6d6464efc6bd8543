"""How long training steps and samples take beside the bare network: ratios of one process."""
