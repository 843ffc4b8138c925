"""What is promised of a GPU, tried in ten minutes on one card: ``python -m benchmarks gpu --output gpu``."""
