"""Video, or another program's dataset -> dataset folder.

face_pass          where the face is in every frame, and whether the clip can be used
capture_check      is this video good enough, and if not, what to change
crop               the square of the video that becomes the frame
geometry           rotations and rigid transforms
tracking           head poses, focal length and mean face from landmarks
bundle_adjustment  its solvers
pose_refinement    poses that follow the image itself
track_report       a track's jitter against optical flow
torso_registration  where the torso, or the room, of one frame is in others
body_tracking      body poses from where the torso is
masks              masks of head and person, lips, the room without the person
room_check         how still the room is, and who else is in it
body_check         are room and shoulders good enough for a whole person
head_cloud         the points that a head starts from
body_cloud         the points that neck, shoulders and clothes start from
pipeline           all of it, in one command

adnerf_folder      frames and split of another program's dataset: the form of AD-NeRF and its kin
restricted_tensors  tensors out of a PyTorch file, which is never run
adnerf_cameras     its cameras
adnerf_pictures    its frames, masks, torsos and room
adnerf_signals     its sound, features of sound and lids
head_placement     its world brought to ours
imported_pictures  the pictures of the dataset that is made of it
imported           all of that, in one command

The held-out end of a clip is cut off for training only: a dataset is made of the whole clip, and
some of it has seen the frames that are held out. The crop is chosen around the head in all of them;
the delay between sound and lips is estimated on all; mean face and focal length come from a bundle
adjustment over all; head poses are one chain over all, refined by aligning each frame to the one
before; body poses are told from where the torso is in the calmest of all frames, smoothed over two
neighbors either way; hull and first colors of the cloud are made of 48 views spread over the whole
clip, and the clean background (the plate) of every tenth frame of it; what an open and a shut eye
is, is a quantile over all frames. Figures on held-out frames are a little better for it (the
original code shares most of this). `meta.json` lists it as `seen_of_all_frames`. Not on the list,
since each frame's are its own or of frames before it: frames, masks, landmarks, lips rectangles,
features of sound (which reach 1.2 s back and 0.6 s ahead). What training learns from (frames,
statistics) is of its own split.
"""
