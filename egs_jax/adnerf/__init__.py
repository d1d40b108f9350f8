"""Another program's dataset, in the form of AD-NeRF and its kin -> dataset folder.

folder              its frames and their split
restricted_tensors  tensors out of a PyTorch file, which is never run
cameras             its cameras
pictures            its frames, masks, torsos and room
signals             its sound, features of sound and lids
head_placement      its world brought to ours
imported_pictures   the pictures of the dataset that is made of it
imported            all of that, in one command

What it lacks is made by `preprocess`, whose docstring says what sees held-out frames.
"""
