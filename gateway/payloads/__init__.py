"""What was asked and answered, kept for those endpoints whose managers ask for it."""
