"""The method: deep self-distillation, from views to the teacher's encoder. Imports base alone."""
