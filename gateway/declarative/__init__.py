"""Objects that a file declares: read it, compare it with what is there, make it so, write it from what is there."""
