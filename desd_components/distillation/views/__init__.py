"""Augmented views: what is drawn (recipe), the arithmetic (augment), and a batch of them (make)."""
