"""Thresholds learnt at a false-accept rate: on whom, how, drawn, and written into the bundle."""
