"""Synthetic people, drawn by us: identities, their crops in two lights, data sets and videos."""
