"""Studies: does pre-training help, is a fault seen, a demonstration from start to end."""
