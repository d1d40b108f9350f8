"""What every room needs: errors, files, assets, progress, the process's environment.

errors        errors with a message for users
arguments     the command line's parser, and kinds of values
files         files that a crash leaves whole
archives      files inside archives of the package index
assets        pretrained networks, pinned by hash, fetched once
array_pickle  pickles that hold nothing but arrays
cache         where those and compiled programs are kept
compiled_files  machine code of this processor, bounded, none of it damaged
programs      functions that a second start neither traces nor compiles
one_copy      arrays side by side in one, for a single copy to a device or from it
environment   settings that a process gives its libraries; its cores
device        what a verb computes on, and who has its memory
provenance    where a result comes from: commit, versions, device
progress      the progress bar
prefetch      items made in a thread while others are used
stopping      SIGTERM and Ctrl-C as an event that a loop asks for
consent       the notice to everyone who makes an avatar
"""
