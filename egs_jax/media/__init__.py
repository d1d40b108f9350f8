"""Sound and pictures out of files and into them, on one clock.

clock            the one clock of pictures and sound
audio_file       any audio or video file as mono sound; WAV files
video_reader     pictures picked by their timestamps
video_writer     mp4 files with sound, all or nothing
encoder_process  a `VideoWriter` in a process of its own
"""
