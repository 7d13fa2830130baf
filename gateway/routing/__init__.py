"""Where calls go, as this worker knows it: loads, circuits, places. In memory; told to other workers elsewhere."""
