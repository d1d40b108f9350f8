"""A trained run that speaks: sound -> frames -> film or live stream.

scene           what an avatar takes of its clip to speak
token_kernels   tokens of frames by Triton kernels
precomputed     all of a frame's work that no frame changes, done once
baked           an avatar whose whole motion is a few numbers a frame, its codes
baking          a trained avatar -> a baked one
avatar_file     one file with all that an avatar needs to speak
avatar_writer   an avatar -> that file, or the part of it that a screen needs
poses           head poses of a film: the clip's own, one that stands still, a file's
look            how an avatar is shown: poses, background, blinks, size, frame rate, label
staging         a scene as a look shows it
label           the words that a picture is synthetic
avatar          a trained avatar, loaded from its run folder or from a file
export          an avatar -> such a file, or a point cloud
point_cloud     the Gaussians of one moment in the form that viewers open
listening       how much each Gaussian listens to each token
drive           speech -> what drives every frame: audio windows, blinks, a path of poses
draw            an avatar and what drives it -> pictures, a batch in one jitted call
to_host         the same with pictures at the host, by one copy each way
speech_batches  speech in chunks of any size -> what drives batches of frames; interruptions
drawing         batches -> pictures at the host, by threads
shared_drawing  batches of several speeches -> pictures or codes, in one call of a device
live_sound      sound of any rate, as it is pushed -> checked sound that waits to be heard
stream          one live speaker: sound in chunks -> frames with timestamps
motion          codes and poses of frames as bytes, for a page
page            an avatar and a speech -> one HTML file that talks in any browser (by web/)
turns           who is served next of many
session         one of many live speakers, and how far its work is
sessions        many live speakers in one process
film_places     where films go, and what they are
inset           an avatar at its place in the whole picture of its film
film            an avatar and speeches -> films with sound
"""
