"""Random views of images, pure and on the device: settings, geometry, pixels, augment.

settings.py  `Views`: strength of every transformation, and the families by name
geometry.py  one coordinate field and one bilinear gather
pixels.py    stroke width, light, colour, noise, swapped and erased pixels
augment.py   `augmentation`: the function of a family for images of one shape
"""
