"""Avatars on a page, or at a program's socket: sound in, codes or pictures out.

arguments  what `serve` and `view` are told on the command line
protocol   what client and server say to each other, as bytes and back
pace       when frames of a live speaker are sent, and what it hears meanwhile
pictures   drawn frames as their client wants to see them, as JPEGs or H.264
gate       who may ask: token, host and origin; what pages may do
site       files under a token, by a server that stops when it is told to
speaker    one client: its socket and its session
server     `egs-jax serve`: the site with a socket
view       `egs-jax view`: the site with one speech, for a researcher's page

The pages and the player are in web/.
"""
