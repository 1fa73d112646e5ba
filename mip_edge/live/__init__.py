"""From frames to matches: sources, detector, tracker, identities, overlay."""
