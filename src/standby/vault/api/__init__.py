"""REST under /api/v1, and what agents speak to under /agent/v1."""
