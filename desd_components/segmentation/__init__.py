"""The segmentation network, its losses, training, manifest, scores and inference."""
