"""Networks that see a face: 478 landmarks, head and body masks.

litert        one pretrained network on the CPU: arrays in, arrays out
mesh          the face's topology: groups of points, the canonical mesh, mouth and eye measures
landmarks     a face and its landmarks, tracked from frame to frame
segmentation  person against background; the parts of a face, with a face parser
"""
