"""What a forward pass shows, with the user's model left as it was. Nothing here knows an adapter, a head or a method."""
