"""Server-rendered pages over the vault's services."""
