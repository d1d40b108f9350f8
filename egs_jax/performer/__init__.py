"""The synthetic performer of the demo, whose every frame is known."""
