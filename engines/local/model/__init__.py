"""The demonstration model: its corpus, its training and its measure."""
