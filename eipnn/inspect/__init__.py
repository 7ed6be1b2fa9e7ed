"""A look at structure files before training: tables, a picture, and what is likely to be a mistake."""
