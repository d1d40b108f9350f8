"""Video -> dataset folder."""
