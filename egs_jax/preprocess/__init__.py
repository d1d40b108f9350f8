"""Videos of one person -> dataset folder.

films               the films that are given, and which part of each
film_sound          the speech of a film, silent ones refused
microphone          another microphone, put on the film's clock
face_pass           where the face is in every frame of a film
shots               which frames are used: stretches between cuts, of one person
material            what is used of all films, joined; their sound
exposure            one exposure for several films
capture_check       is this video good enough, and if not, what to change
crop                the square of the video that becomes the frame
geometry            rotations and rigid transforms
tracking            head poses, focal length and mean face from landmarks
bundle_adjustment   its solvers
pose_refinement     poses that follow the image itself
track_report        a track's jitter against optical flow
torso_registration  where the torso, or the room, of one frame is in others
body_tracking       body poses from where the torso is
frame_pass          frames, masks and the room, written while the films are decoded again
mouth_check         what is before the mouth
masks               masks of head and person, lips, the room without the person
room_check          how still the room is, and who else is in it
body_check          are room and shoulders good enough for a whole person
head_cloud          the points that a head starts from
body_cloud          the points that neck, shoulders and clothes start from
dataset_folder      the folder while it is made
pipeline            all of it, in one command

The held-out end of a clip is cut off for training only: a dataset is made of the whole clip, and
some of it has seen the frames that are held out. The crop is chosen around the head in all of them;
the delay between sound and lips is estimated on all; mean face and focal length come from a bundle
adjustment over all; head poses are one chain over all, refined by aligning each frame to the one
before; body poses are told from where the torso is in the calmest of all frames, smoothed over two
neighbors either way; hull and first colors of the cloud are made of 48 views spread over the whole
clip, and the clean background (the plate) of every tenth frame of it; what an open and a shut eye
is, is a quantile over all frames; the exposure of several films is made one by the colors of all
their frames; what is before the mouth in some frames is told by all others. Figures on held-out
frames are a little better for it (the original code shares most of this). `meta.json` lists it as
`seen_of_all_frames`. Not on the list, since each frame's are its own or of frames before it:
frames, masks, landmarks, lips rectangles, features of sound (which reach 1.2 s back and 0.6 s
ahead). What training learns from (frames, statistics) is of its own split.
"""
