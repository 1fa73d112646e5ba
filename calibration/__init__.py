"""INT8 scales from training identities only."""
