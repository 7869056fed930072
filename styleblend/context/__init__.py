"""Other media become words: what a picture shows, and a prompt in fewer words."""
