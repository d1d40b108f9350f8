"""Batches -> a trained state: losses, steps, loop, checkpoints, several devices.

state             everything that a step changes
optimizer         Adam with one rate per kind of parameter
perceptual        VGG-16 and AlexNet features
losses            the loss of a batch
density           clone, split and prune at fixed capacity
step              the pure steps of both stages
frames_on_device  the frames in the device's memory, where batches are cut
compile_ahead     a run's programs, compiled before they are needed
parallel          several devices share the frames of a step
hosts             several hosts train one model
monitor           a look at finished steps: logs, warnings, bad ones
checkpoint        states on disk, and their hash
run_clip          which clip a run is trained on, wherever its dataset lies
run_folder        a run's records: config, environment, metrics
expected_time     how long a training will take
loop              the training, on one page
"""
