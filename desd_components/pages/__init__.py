"""The pages that runs leave: run folders read, figures drawn, one HTML template. Imported late, for drawing is slow."""
