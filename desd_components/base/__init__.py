"""The ground floor: errors, files, tensors, processes, draws. Knows torch and MONAI, and nobody here."""
