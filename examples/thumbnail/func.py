"""An image in, a smaller one out, both as base64: with Pillow, which requirements.txt asks for."""

import base64
import io

from PIL import Image


def run(image, size=128):
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        picture.thumbnail((size, size))
        out = io.BytesIO()
        picture.convert("RGB").save(out, "PNG")
        width, height = picture.size
    return {"width": width, "height": height, "image": base64.b64encode(out.getvalue()).decode()}
