"""What is learned of a style, in our files and in those of other programs."""
