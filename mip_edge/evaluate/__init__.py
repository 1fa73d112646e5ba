"""From embeddings to figures: protocols, rankings, tables and pictures."""
