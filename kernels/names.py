"""The names that the calibration loss takes, for all implementations and for the settings of training."""

PAIRS = ("rows", "halves", "all")
LOSSES = ("l1", "l2", "one-sided")  # the kernels know them by their place in this order
QUANTIZATIONS = ("cosine", "l1", "l2", "cubic")
IMPLEMENTATIONS = ("eager", "cpu", "triton")
