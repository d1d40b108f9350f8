"""The synthetic performer of the demo, whose every frame is known.

mesh     triangle meshes: subdivision, lofts, a z-buffer
anatomy  materials, eyes and skull, on which face and parts agree
parts    what is around the face: eyes, teeth, tongue, ears, hair, neck, clothes
head     the body: a face that moves, and its parts
shading  skin, light, and the picture of one pose
voice    sound made from phonemes, and the mouth that goes with it
film     who acts what when: the performer's video
"""
