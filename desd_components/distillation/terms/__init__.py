"""Further terms beside the loss, ours; the published recipe has none, and the method knows nothing of them."""
