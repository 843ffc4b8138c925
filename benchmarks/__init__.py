"""Speed and memory, each as a ratio against a named reference in one run: `python -m benchmarks [NAME ...]`."""
