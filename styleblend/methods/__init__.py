"""What each method says to the one loop that draws."""
