"""Sound and pictures out of files and into them, on one clock.

clock             the one clock of pictures and sound
sound_tracks      any track of a file, its channels mixed down
voice_activity    where somebody speaks
speech_source     the track and the channel that carry the speech
audio_file        any audio or video file as mono sound; WAV files
decoded_pictures  pictures of a film, whole frames of 8 bits
video_reader      pictures picked by their timestamps
film_format       containers, encoders and pixels of films
content_credentials  C2PA manifests, signed words of what made a film
sound_encoder     sound as a file that browsers play
video_pixels      pictures as encoders of video take them
live_video        H.264 of someone who looks on, picture by picture
video_writer      films with sound, all or nothing
picture_folder    a folder of numbered pictures in the place of a film
feeding           pictures and sound to one of these, about alternately
encoder_process   a `VideoWriter` in a process of its own
film_pictures     a film's pictures in any order
"""
