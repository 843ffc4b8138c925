"""What a run shows: figures, pictures, pages."""
