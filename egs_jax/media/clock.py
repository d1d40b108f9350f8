"""The one clock of pictures and sound.

Time 0 of a file is the `start_time` of its container: the smallest start over its streams. Frame k
is the picture at k / FPS seconds, sample k the sound at k / SAMPLE_RATE seconds on that clock, so
frame k and sample k * SAMPLE_RATE / FPS belong together, whatever the rates, offsets and gaps of
the file. Nothing is ever stretched.
"""

FPS = 25
"""Frames a second of every dataset, avatar and film."""
SAMPLE_RATE = 16_000
"""Samples a second of the sound that is heard [Hz]."""
