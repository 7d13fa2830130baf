"""The process tree of one machine: started in order, kept alive, stopped in order."""
