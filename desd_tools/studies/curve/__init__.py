"""`desd label-curve`: Dice against the number of labels, with intervals."""
