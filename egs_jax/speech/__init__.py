"""Sound -> features, 50 rows a second.

whisper          Whisper's encoder in JAX: tiny.en and base
layout           how far sound reaches into a row and a frame: the look-ahead
level            one loudness, as it is heard
voice_on_device  where somebody speaks in many sounds at once
window_rows      windows of sound -> rows, by one compiled program
features         features of whole sounds and of streams, by Whisper or mel
frame_windows    what the model hears of them for each frame
lips             lips told from features, in closed form
"""
