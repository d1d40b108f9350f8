"""Sound and pictures out of files and into them, on one clock.

clock             the one clock of pictures and sound
sound_tracks      any track of a file, its channels mixed down
voice_activity    where somebody speaks
speech_source     the track and the channel that carry the speech
audio_file        any audio or video file as mono sound; WAV files
decoded_pictures  pictures of a film, whole frames of 8 bits
video_reader      pictures picked by their timestamps
sound_encoder     sound as a file that browsers play
video_writer      mp4 files with sound, all or nothing
encoder_process   a `VideoWriter` in a process of its own
"""
