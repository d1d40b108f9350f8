"""Dataset folder -> batches.

pictures    pictures of a clip in one file
paint       a frame without its head
folder      the folder: its arrays, its description, and their checks
stretches   runs of frames without a cut
statistics  what of a clip training chooses frames by and measures lips by
body        the body's pose told from the head's path
batches     which frames a step sees, and the batch that is cut from them
dataset     an open folder: frames, cameras, what drives a frame, batches
"""
