"""A trained run that speaks: sound -> frames -> film or live stream.

scene          what an avatar takes of its clip to speak
token_kernels  tokens of frames by Triton kernels
precomputed    all of a frame's work that no frame changes, done once
baked          an avatar whose whole motion is a few numbers a frame, its codes
baking         a trained avatar -> a baked one
avatar_file    one file with all that an avatar needs to speak
poses          head poses of a film: the clip's own, one that stands still, a file's
avatar         a trained avatar, loaded from its run folder or from a file
export         a run folder -> such a file
drive          speech -> what drives every frame: audio windows, blinks, a path of poses
draw           an avatar and what drives it -> pictures, a batch in one jitted call
stream         speech in chunks of any size -> frames with timestamps, live
motion         codes and poses of frames as bytes, for a page
page           an avatar and a speech -> one HTML file that talks in any browser (by web/)
film           a run folder and a speech -> a film with sound
"""
