"""People who were seen: their embeddings, in memory or in a file, and how a query meets them."""
