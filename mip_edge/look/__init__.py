"""Pictures of what a model does with a data set: curves, histograms, a map, and its prompts."""
