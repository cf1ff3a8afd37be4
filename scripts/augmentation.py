"""The augmentation families as a picture: drawn images on the left, seven views of each.

    python scripts/augmentation.py --out docs/augmentation.png

Rows: three handwriting, three objects, three photographs (drawn too: no photograph of anybody is
needed). Ten seconds of one of two CPU cores, jax 0.10.2.
"""

import argparse

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import twostage_jax as ts

VIEWS = 7


def draw_digit(number):
    """Draw a digit of 28×28."""
    image = Image.new("L", (28, 28))
    font = ImageFont.load_default(size=24)
    ImageDraw.Draw(image).text((14, 14), str(number), fill=255, font=font, anchor="mm")
    return image


def draw_shape(number):
    """Draw a grey shirt, pair of trousers or shoe of 28×28."""
    image = Image.new("L", (28, 28))
    shirt = [(9, 4), (19, 4), (26, 10), (22, 14), (20, 12), (20, 25), (8, 25), (8, 12), (3, 11)]
    trousers = [(9, 2), (19, 2), (21, 26), (15, 26), (14, 10), (13, 26), (7, 26)]
    shoe = [(3, 20), (3, 9), (9, 9), (13, 14), (25, 17), (25, 22), (3, 22)]
    ImageDraw.Draw(image).polygon((shirt, trousers, shoe)[number], fill=190 - 30 * number)
    return image


def draw_scene(number):
    """Draw a house, a sun or a hill in colours, 48×48."""
    sky = np.linspace((90, 150, 230), (200, 220, 240), 48).astype(np.uint8)
    image = Image.fromarray(np.repeat(sky[:, None], 48, 1))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 34, 47, 47), fill=(70, 130 + 30 * number, 60))
    draw.ellipse((30 - 9 * number, 4, 40 - 9 * number, 14), fill=(250, 210, 60))
    draw.polygon([(8, 22), (19, 10 + 4 * number), (30, 22)], fill=(170, 60, 50))
    draw.rectangle((11, 22, 27, 40), fill=(220, 200 - 50 * number, 170))
    return image


def main():
    """Draw the picture."""
    parser = argparse.ArgumentParser(description="Draw the augmentation families.")
    parser.add_argument("--out", default="augmentation.png", help="file to write")
    args = parser.parse_args()
    families = {"handwriting": draw_digit, "objects": draw_shape, "photographs": draw_scene}
    rows = []
    for name, draw in families.items():
        first = 2 if name == "handwriting" else 0
        images = np.stack([np.asarray(draw(first + number)) for number in range(3)])
        images = np.repeat(images.reshape(*images.shape[:3], -1), VIEWS, 0)
        augment = jax.jit(ts.augmentation(name, images.shape[1:]))
        views = augment(jax.random.key(0), images / np.float32(127.5) - 1)
        views = np.uint8(127.5 * np.asarray(views) + 127.5).reshape(3, VIEWS, *images.shape[1:])
        tiles = np.concatenate([images[::VIEWS, None], views], 1)
        tiles = np.broadcast_to(tiles, (*tiles.shape[:4], 3))
        for row in tiles:
            large = [np.asarray(Image.fromarray(tile).resize((84, 84), 0)) for tile in row]
            border = ((0, 6), (0, 0), (0, 0))
            rows.append(np.pad(np.concatenate(large, 1), border, constant_values=255))
    Image.fromarray(np.concatenate(rows)).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
